//! What a cluster is made of.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::postgres::PostgresOptions;
use crate::service::Service;

/// What a cluster is made of. [`Options::new`] has what suits a laptop.
#[derive(Debug, Clone)]
pub struct Options {
    /// Holds everything: data, logs, secrets, addresses. Made if need be.
    pub dir: PathBuf,
    /// How many gateways.
    pub gateways: usize,
    /// How many schedulers.
    pub schedulers: usize,
    /// How many workers.
    pub workers: usize,
    /// A database to use; none: a private server is started.
    pub database_url: Option<String>,
    /// What the private server is told.
    pub postgres: PostgresOptions,
    /// The folder of the binaries; none: this program's own.
    pub binaries: Option<PathBuf>,
    /// What is started as worker, such as one with handlers of its own; none: the one with the
    /// built-in types.
    pub worker_binary: Option<PathBuf>,
    /// How many lanes; fixed for a database when it is first used.
    pub lanes: u16,
    /// How long a silent worker keeps what it holds.
    pub worker_lease: Duration,
    /// How long a silent scheduler keeps its lanes.
    pub lane_lease: Duration,
    /// How long a process may take to end in order.
    pub shutdown_grace: Duration,
    /// How many attempts each worker runs at a time.
    pub worker_slots: u32,
    /// Whether workers run jobs of type `command`.
    pub allow_command: bool,
    /// The share of traces that is kept without a special reason, 0 to 1.
    pub sample_rate: f64,
    /// Who may use it; at least one. The first is the one that `key()` belongs to.
    pub tenants: Vec<Tenant>,
    /// Whether traces are collected, here in this process.
    pub receiver: bool,
    /// Further environment variables of the processes; they override ours.
    pub env: Vec<ExtraEnv>,
    /// Those of single processes; they override the others.
    pub instance_env: Vec<InstanceEnv>,
}

/// A tenant and its queues.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its queues.
    pub queues: Vec<Queue>,
}

/// A tenant's queue.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// How many lanes it spreads over, 1 to all: more share the load between schedulers, one keeps
    /// order and limits exact.
    pub slices: u16,
    /// A higher priority goes first, always.
    pub strict: bool,
    /// How many executions may wait in it; none: no limit.
    pub max_depth: Option<u64>,
}

/// A variable for all processes of one service.
#[derive(Debug, Clone)]
pub struct ExtraEnv {
    /// Whose.
    pub service: Service,
    /// The variable.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A variable for one process.
#[derive(Debug, Clone)]
pub struct InstanceEnv {
    /// Whose, such as `scheduler-2`.
    pub instance: String,
    /// The variable.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Queue {
    /// A queue that spreads over so many lanes; its options are none.
    #[must_use]
    pub fn new(name: impl Into<String>, slices: u16) -> Self {
        Self {
            name: name.into(),
            slices,
            strict: false,
            max_depth: None,
        }
    }
}

impl Options {
    /// One gateway, two schedulers, two workers, a private PostgreSQL and a trace receiver in `dir`;
    /// a tenant `demo` with queues `default`, which spreads over half the lanes, and `checks`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            gateways: 1,
            schedulers: 2,
            workers: 2,
            database_url: None,
            postgres: PostgresOptions::default(),
            binaries: None,
            worker_binary: None,
            lanes: 16,
            worker_lease: Duration::from_secs(5),
            lane_lease: Duration::from_secs(8),
            shutdown_grace: Duration::from_secs(5),
            worker_slots: 8,
            allow_command: true,
            sample_rate: 1.0,
            tenants: vec![Tenant {
                name: "demo".to_owned(),
                queues: vec![Queue::new("default", 8), Queue::new("checks", 1)],
            }],
            receiver: true,
            env: Vec::new(),
            instance_env: Vec::new(),
        }
    }

    /// The path of a service's binary.
    ///
    /// # Errors
    /// It isn't there.
    pub(crate) fn binary(&self, service: Service) -> Result<PathBuf> {
        let path = match (service, &self.worker_binary) {
            (Service::Worker, Some(path)) => path.clone(),
            _ => {
                let folder = self.binaries.clone().map_or_else(our_folder, Ok)?;
                folder.join(service.as_str())
            }
        };
        ensure!(
            path.is_file(),
            "there is no {}: build it with `cargo build --workspace --bins`",
            path.display()
        );
        Ok(path)
    }
}

/// Where this program is; cargo puts tests one folder deeper than binaries.
fn our_folder() -> Result<PathBuf> {
    let us = env::current_exe().context("this program can't tell where it is")?;
    let folder = us.parent().context("this program has no folder")?;
    let tests = folder
        .file_name()
        .is_some_and(|name| name == "deps" || name == "examples");
    Ok(if tests {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    }
    .to_owned())
}
