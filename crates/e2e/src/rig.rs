//! A cluster of the real binaries for one test.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use cluster::testing::{FreshDatabase, fresh_database};
use cluster::{Cluster, Options, Queue, Service};
use tempfile::TempDir;
use watchwork::client::Client;

use crate::Ledger;

/// A cluster with a directory and a database of its own, and what looks into it. It is taken down
/// by [`stop`](Self::stop), or in haste when it is dropped.
pub struct Rig {
    /// The processes.
    pub cluster: Cluster,
    /// A client with the first tenant's key.
    pub client: Client,
    /// The rows.
    pub ledger: Ledger,
    // Dropped after what uses them.
    _database: FreshDatabase,
    _dir: TempDir,
}

impl Rig {
    /// Brings up one gateway, two schedulers and two workers with short leases, without a trace
    /// receiver; the queue `default` spreads over all lanes. `change` may change all that.
    ///
    /// # Errors
    /// Something doesn't start.
    ///
    /// # Panics
    /// `DATABASE_URL` is not set: run `make test`.
    pub async fn start(change: impl FnOnce(&mut Options)) -> Result<Self> {
        let database = fresh_database().await;
        let dir = tempfile::Builder::new()
            .prefix("watchwork-e2e-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()?;
        let mut options = Options::new(dir.path());
        options.database_url = Some(database.url().to_owned());
        options.worker_lease = Duration::from_secs(4);
        options.lane_lease = Duration::from_secs(5);
        options.receiver = false;
        options.tenants[0].queues[0] = Queue::new("default", options.lanes);
        change(&mut options);
        let cluster = Cluster::start(options).await?;
        let address = cluster.gateway_url().context("there is no gateway")?;
        let client = Client::new(&address, cluster.key()).map_err(|why| anyhow!(why))?;
        let ledger = Ledger::open(cluster.database_url()).await?;
        Ok(Self {
            cluster,
            client,
            ledger,
            _database: database,
            _dir: dir,
        })
    }

    /// Takes everything down, in order.
    ///
    /// # Errors
    /// A process had to be killed, or ended with an error.
    pub async fn stop(self) -> Result<()> {
        self.ledger.pool().close().await;
        self.cluster.stop().await
    }

    /// How many executions run and how many wait now, in the lanes of each live scheduler by its own
    /// metrics. True until lanes change hands: counters begin at 0 in each process.
    ///
    /// # Errors
    /// A scheduler doesn't answer.
    pub async fn under_way(&self) -> Result<Vec<UnderWay>> {
        let mut all = Vec::new();
        for (scheduler, text) in self.metrics_of_schedulers().await? {
            let count = |what| sum_of(&text, &format!("queue_messages_{what}_total"));
            let dequeued = count("dequeued");
            all.push(UnderWay {
                scheduler,
                running: dequeued - count("acknowledged") - count("rejected"),
                waiting: count("enqueued") - dequeued,
            });
        }
        Ok(all)
    }

    /// The sum of a metric over all label sets of all live schedulers.
    ///
    /// # Errors
    /// A scheduler doesn't answer.
    pub async fn total(&self, name: &str) -> Result<f64> {
        let all = self.metrics_of_schedulers().await?;
        Ok(all.iter().map(|(_, text)| sum_of(text, name)).sum())
    }

    async fn metrics_of_schedulers(&self) -> Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        for member in self.cluster.members() {
            if member.service() == Service::Scheduler && member.alive() {
                let url = format!("http://{}/metrics", member.admin_address());
                let text = reqwest::get(url).await?.error_for_status()?.text().await?;
                all.push((member.instance().to_owned(), text));
            }
        }
        Ok(all)
    }
}

/// What is under way in the lanes of one scheduler.
#[derive(Clone, Debug)]
pub struct UnderWay {
    /// Which one.
    pub scheduler: String,
    /// Claimed and not recorded.
    pub running: f64,
    /// Waiting for a slot.
    pub waiting: f64,
}

/// The sum over all label sets of a metric in Prometheus' text format.
fn sum_of(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let labelled = rest.starts_with('{') || rest.starts_with(' ');
        labelled.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    values.sum()
}
