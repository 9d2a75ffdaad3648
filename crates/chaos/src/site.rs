//! Where it happens: PostgreSQL and all processes, with a proxy on each way that can be cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, ExtraEnv, InstanceEnv, Options, Postgres, PostgresOptions, Queue, Service};
use tokio::task::spawn_blocking;

use crate::clock;
use crate::history::History;
use crate::plan::Fleet;
use crate::proxy::{Network, Proxy};
use crate::tables::Tables;

/// How long a silent worker keeps what it runs.
pub(crate) const WORKER_LEASE: Duration = Duration::from_secs(4);
const LANE_LEASE: Duration = Duration::from_secs(5);
const WORKER_SLOTS: u32 = 16;

/// The processes, and what lies between them.
pub(crate) struct Site {
    // Dropped in this order: nobody loses what it works with.
    pub(crate) cluster: Cluster,
    /// By their names: `to scheduler-1`, `scheduler-1 to database`.
    pub(crate) ways: BTreeMap<String, Proxy>,
    pub(crate) postgres: Arc<Postgres>,
    pub(crate) database_url: String,
}

impl Site {
    /// Brings everything up in `dir`. Everybody reaches a scheduler through its proxy alone, and it the
    /// database through another.
    ///
    /// # Errors
    /// Something doesn't start.
    pub(crate) async fn start(dir: &Path, fleet: Fleet) -> Result<Self> {
        let at = dir.to_owned();
        let postgres = spawn_blocking(move || Postgres::start(&at, PostgresOptions::default()));
        let postgres = postgres.await??;
        // An earlier run that failed may have left its own.
        let name = format!("chaos_{}", clock::since_1970() + clock::now());
        let database_url = postgres.create_database(&name).await?;
        let mut options = options(dir, fleet, &database_url)?;
        let ways = lay_ways(&mut options, fleet.schedulers, &database_url).await?;
        let site = Self {
            cluster: Cluster::start(options).await?,
            ways,
            postgres: Arc::new(postgres),
            database_url,
        };
        site.open_ways()?;
        for _ in 0..fleet.gateways {
            site.cluster.add(Service::ApiGateway).await?;
        }
        for _ in 0..fleet.workers {
            site.cluster.add(Service::Worker).await?;
        }
        Ok(site)
    }

    /// Takes everything down in order, the data of the database included if they aren't to be kept.
    ///
    /// # Errors
    /// Something had to be killed.
    pub(crate) async fn stop(self, keep: bool) -> Result<()> {
        let stopped = self.cluster.stop().await;
        let postgres = Arc::into_inner(self.postgres);
        let postgres = postgres.context("somebody still works on the database")?;
        let ended = spawn_blocking(move || match keep {
            true => postgres.stop(),
            false => postgres.destroy(),
        });
        ended.await??;
        stopped
    }

    fn open_ways(&self) -> Result<()> {
        for member in self.cluster.members() {
            let way = self.ways.get(&format!("to {}", member.instance()));
            let (Some(way), Some(address)) = (way, member.address()) else {
                continue;
            };
            way.lead_to(address.parse()?);
        }
        Ok(())
    }
}

/// A proxy before each scheduler, which everybody is told as its address, and one behind it.
async fn lay_ways(
    options: &mut Options,
    schedulers: usize,
    database_url: &str,
) -> Result<BTreeMap<String, Proxy>> {
    let database = host_of(database_url)?;
    let mut ways = BTreeMap::new();
    let mut advertised = Vec::new();
    for number in 1..=schedulers {
        let to_it = Proxy::over(Network::default()).await?;
        let to_database = Proxy::over(Network::default()).await?;
        to_database.lead_to(database.parse()?);
        let address = format!("http://{}", to_it.address());
        let url = database_url.replace(database, &to_database.address().to_string());
        let instance = format!("{}-{number}", Service::Scheduler);
        for (name, value) in [("ADVERTISE_ADDRESS", &address), ("DATABASE_URL", &url)] {
            options.instance_env.push(InstanceEnv {
                instance: instance.clone(),
                name: name.to_owned(),
                value: value.clone(),
            });
        }
        advertised.push(address);
        ways.insert(format!("to {instance}"), to_it);
        ways.insert(format!("{instance} to database"), to_database);
    }
    for service in [Service::ApiGateway, Service::Worker] {
        options.env.push(ExtraEnv {
            service,
            name: "SCHEDULERS".to_owned(),
            value: advertised.join(","),
        });
    }
    Ok(ways)
}

/// What the tables say that the last run in `dir` has left.
///
/// # Errors
/// There are none, or PostgreSQL doesn't start.
pub(crate) async fn left_behind(dir: &Path) -> Result<History> {
    let at = dir.to_owned();
    let postgres = spawn_blocking(move || Postgres::start(&at, PostgresOptions::default()));
    let postgres = postgres.await??;
    let newest = Tables::of(&postgres.maintenance_url())?
        .newest_run()
        .await?;
    let history = Tables::of(&postgres.url(&newest))?.history().await?;
    spawn_blocking(move || postgres.stop()).await??;
    Ok(history)
}

/// The log of the workers' calls, below a run's directory.
pub(crate) fn calls_log(dir: &Path) -> PathBuf {
    dir.join("calls.jsonl")
}

/// Schedulers alone: the others are started once the ways to them are open.
fn options(dir: &Path, fleet: Fleet, database_url: &str) -> Result<Options> {
    let mut options = Options::new(dir);
    options.database_url = Some(database_url.to_owned());
    options.gateways = 0;
    options.workers = 0;
    options.schedulers = fleet.schedulers;
    options.worker_lease = WORKER_LEASE;
    options.lane_lease = LANE_LEASE;
    options.worker_slots = WORKER_SLOTS;
    options.receiver = false;
    options.tenants[0].queues = vec![Queue::new("default", options.lanes)];
    let us = std::env::current_exe()?;
    let folder = us.parent().context("this program has no folder")?;
    let worker = folder.join("chaos-worker");
    ensure!(
        worker.is_file(),
        "there is no {}: build it",
        worker.display()
    );
    options.worker_binary = Some(worker);
    let log = fs::canonicalize(dir)?.join("calls.jsonl");
    options.env.push(ExtraEnv {
        service: Service::Worker,
        name: "CALLS_LOG".to_owned(),
        value: log.display().to_string(),
    });
    Ok(options)
}

/// `host:port` of a URL with user and path.
fn host_of(url: &str) -> Result<&str> {
    let rest = url.rsplit_once('@').map(|(_, rest)| rest);
    let host = rest.and_then(|rest| rest.split_once('/'));
    Ok(host.context("the database's URL names no host")?.0)
}
