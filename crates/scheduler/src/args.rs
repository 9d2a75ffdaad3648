use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use service::{Secret, ServiceArgs};

/// Accepts executions, hands them to workers, and records what became of them.
#[derive(Parser, Clone, Debug)]
#[command(name = "scheduler", version)]
pub struct Args {
    /// Where gRPC is served.
    #[arg(long, env = "LISTEN_ADDR", default_value = "0.0.0.0:7070")]
    pub listen_addr: SocketAddr,
    /// Where others reach it, as `http://host:port`; default: the listening port on 127.0.0.1.
    #[arg(long, env = "ADVERTISE_ADDRESS")]
    pub advertise_address: Option<String>,
    /// The database: `postgres://user:password@host:port/name`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// A file that holds the database's URL.
    #[arg(long, env = "DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
    /// What gateways and schedulers prove themselves with to each other; at least 16 characters, the same for
    /// all of an installation.
    #[arg(long, env = "SERVICE_TOKEN", hide_env_values = true)]
    pub service_token: Option<String>,
    /// A file that holds the service token.
    #[arg(long, env = "SERVICE_TOKEN_FILE")]
    pub service_token_file: Option<PathBuf>,
    /// Tenants, queues and keys to be made at the start, as YAML (docs/seed.md); what exists stays.
    #[arg(long, env = "SEED_FILE")]
    pub seed_file: Option<PathBuf>,
    /// How many lanes a new installation gets: 1 to 4096, 64 if not said. An existing one keeps its own.
    #[arg(long, env = "LANES", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub lanes: Option<u16>,
    /// How many writers share the lanes of this scheduler, each with a connection of its own: 1 to 16.
    #[arg(long, env = "LANE_GROUPS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub lane_groups: u16,
    /// How long a lane is this scheduler's own without renewal.
    #[arg(long, env = "LANE_LEASE", default_value = "8s", value_parser = humantime::parse_duration)]
    pub lane_lease: Duration,
    /// How long a worker keeps what it runs without an answered heartbeat.
    #[arg(long, env = "WORKER_LEASE", default_value = "30s", value_parser = humantime::parse_duration)]
    pub worker_lease: Duration,
    /// How many hours a window of history is wide: 1 to 744.
    #[arg(long, env = "WINDOW_HOURS", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=744))]
    pub window_hours: u16,
    /// How long executions that succeeded or were cancelled are kept once their window is over; queues say
    /// for themselves how much longer failures are. At least an hour, at most 60 windows.
    #[arg(long, env = "RETENTION", default_value = "7d", value_parser = humantime::parse_duration)]
    pub retention: Duration,
    /// How far ahead due entries are read into memory.
    #[arg(long, env = "DUE_HORIZON", default_value = "10m", value_parser = humantime::parse_duration)]
    pub due_horizon: Duration,
    /// How many executions wait in memory, at least 100: what is accepted beyond that is read again from its table
    /// before its turn comes. Those that were accepted together for one line count as one.
    #[arg(long, env = "WAITING_IN_MEMORY", default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub waiting_in_memory: u32,
    /// Whether to work with a database that may lose in a crash what it has acknowledged (`fsync=off`,
    /// `full_page_writes=off`, `synchronous_commit=off`): for work that may be lost.
    #[arg(
        long, env = "ALLOW_UNSAFE_DATABASE", action = ArgAction::Set,
        num_args = 0..=1, default_value_t = false, default_missing_value = "true"
    )]
    pub allow_unsafe_database: bool,
    /// Connections for reads and slow changes, beside those of the writers; as many again for tenants' reads.
    #[arg(long, env = "DATABASE_POOL", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub database_pool: u16,
    /// What every process takes.
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// What the arguments name by file or by value.
pub(crate) struct Secrets {
    pub(crate) database_url: String,
    pub(crate) service_token: String,
}

impl Args {
    /// Whole hours of retention.
    pub(crate) fn retention_hours(&self) -> i32 {
        i32::try_from(self.retention.as_secs() / 3_600).unwrap_or(i32::MAX)
    }

    /// What waits in the memory of one lane group.
    pub(crate) fn waiting_share(&self) -> usize {
        self.waiting_in_memory as usize / usize::from(self.lane_groups)
    }

    /// Reads the secrets and refuses what contradicts itself.
    pub(crate) fn secrets(&self) -> anyhow::Result<Secrets> {
        let second = Duration::from_secs(1);
        anyhow::ensure!(
            self.lane_lease >= 3 * second,
            "LANE_LEASE must be at least 3s"
        );
        anyhow::ensure!(
            self.worker_lease >= 3 * second,
            "WORKER_LEASE must be at least 3s"
        );
        anyhow::ensure!(
            self.due_horizon >= second,
            "DUE_HORIZON must be at least 1s"
        );
        let hours = self.retention_hours();
        anyhow::ensure!(
            (1..=60 * i32::from(self.window_hours)).contains(&hours),
            "RETENTION must be at least 1h and at most 60 windows of WINDOW_HOURS={}",
            self.window_hours
        );
        let (url, file) = (self.database_url.clone(), self.database_url_file.clone());
        let database_url = Secret::resolve("DATABASE_URL", url, file)?;
        let (token, file) = (self.service_token.clone(), self.service_token_file.clone());
        let service_token = Secret::resolve("SERVICE_TOKEN", token, file)?;
        anyhow::ensure!(
            service_token.len() >= 16,
            "SERVICE_TOKEN must have at least 16 characters"
        );
        Ok(Secrets {
            database_url,
            service_token,
        })
    }
}
