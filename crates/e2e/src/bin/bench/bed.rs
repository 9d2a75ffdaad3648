//! What is under test: a private PostgreSQL, and all processes as production has them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::{Cluster, Options, Postgres, PostgresOptions, Queue, Tenant};
use sqlx::{Connection, PgConnection};

use crate::args::Args;
use crate::processes::{self, Memory, Meter, Usage};
use crate::totals::Tally;

/// How many tenants there are.
pub(crate) const TENANTS: u64 = 20;
/// How many queues each tenant has; each is on one lane.
pub(crate) const QUEUES: u64 = 4;
const WORKERS: usize = 2;
/// How long a worker may take to hand in what it holds.
const GOODBYE: Duration = Duration::from_secs(15);

pub(crate) fn tenant_name(number: u64) -> String {
    format!("tenant-{number}")
}

pub(crate) fn queue_name(number: u64) -> String {
    format!("queue-{number}")
}

/// The processes, and how to look at them.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) meter: Meter,
    pub(crate) tally: Tally,
    /// A database on the same server, for the raw limits.
    pub(crate) limits_url: String,
    lanes: u16,
    postgres: Postgres,
}

impl Bed {
    /// Brings everything up, with an empty database, in `dir`.
    pub(crate) async fn make(dir: &Path, args: &Args) -> Result<Self> {
        let postgres = Postgres::start(
            dir,
            PostgresOptions {
                shared_buffers_mb: 1024,
                ..PostgresOptions::default()
            },
        )?;
        for name in ["bench", "limits"] {
            postgres.drop_database(name).await?;
        }
        let url = postgres.create_database("bench").await?;
        let limits_url = postgres.create_database("limits").await?;
        let meter = Meter::new(postmaster(&url).await?);
        let cluster = Cluster::start(options(dir.join("cluster"), url.clone(), args)).await?;
        let tally = Tally::connect(&url, args.lanes).await?;
        Ok(Self {
            cluster,
            meter,
            tally,
            limits_url,
            lanes: args.lanes,
            postgres,
        })
    }

    /// Another reader of the totals.
    pub(crate) async fn second_tally(&self) -> Result<Tally> {
        Tally::connect(self.cluster.database_url(), self.lanes).await
    }

    /// Ends everything and deletes the data; the processes' logs stay.
    pub(crate) async fn clear(self) -> Result<()> {
        drop(self.tally);
        self.cluster.stop().await?;
        self.postgres.destroy()
    }

    /// Ends the workers in order.
    pub(crate) async fn send_workers_away(&self) -> Result<()> {
        for worker in worker_names() {
            let worker = self.cluster.member(&worker)?;
            if worker.alive() {
                worker.terminate(GOODBYE).await?;
            }
        }
        Ok(())
    }

    /// Starts the workers again, at once, and waits until they are ready.
    pub(crate) async fn bring_workers_back(&self) -> Result<()> {
        let starts =
            worker_names().map(|worker| async move { self.cluster.restart(&worker).await });
        futures::future::try_join_all(starts).await?;
        Ok(())
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        self.meter.usage(&self.cluster)
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        self.meter.memory(&self.cluster)
    }

    /// A checkpoint now, so that none falls into what is measured next.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let mut connection = PgConnection::connect(&self.limits_url).await?;
        sqlx::query("checkpoint").execute(&mut connection).await?;
        Ok(())
    }

    /// The folder of the server's programs.
    pub(crate) async fn postgres_programs(&self) -> Result<PathBuf> {
        const FOLDER: &str = "select setting from pg_config where name = 'BINDIR'";
        let mut connection = PgConnection::connect(&self.limits_url).await?;
        let folder: String = sqlx::query_scalar(FOLDER)
            .fetch_one(&mut connection)
            .await?;
        Ok(folder.into())
    }
}

fn options(dir: PathBuf, database_url: String, args: &Args) -> Options {
    let queues = || {
        (0..QUEUES)
            .map(|number| Queue::new(queue_name(number), 1))
            .collect()
    };
    Options {
        schedulers: args.schedulers,
        workers: WORKERS,
        database_url: Some(database_url),
        lanes: args.lanes,
        worker_lease: Duration::from_secs(30),
        shutdown_grace: Duration::from_secs(10),
        worker_slots: args.slots,
        allow_command: false,
        sample_rate: 0.01,
        tenants: (0..TENANTS)
            .map(|number| Tenant {
                name: tenant_name(number),
                queues: queues(),
            })
            .collect(),
        ..Options::new(dir)
    }
}

fn worker_names() -> impl Iterator<Item = String> {
    (1..=WORKERS).map(|number| format!("worker-{number}"))
}

/// The server's first process: the parent of any session's.
async fn postmaster(url: &str) -> Result<u32> {
    let mut connection = PgConnection::connect(url).await?;
    let session: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut connection)
        .await?;
    let session = u32::try_from(session)?;
    processes::parent(session).context("a session of the private PostgreSQL is not in /proc")
}
