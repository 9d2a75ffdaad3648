//! What is killed in the middle, and how the rest takes it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cluster::{Cluster, Service};
use domain::ExecutionId;
use proto::v1::ExecutionState;
use tokio::time::sleep;

use crate::{Ledger, Seen, Tracker};

/// Longer than leases of workers and lanes, and what follows from them.
const RECOVERED_WITHIN: Duration = Duration::from_secs(25);
const POLL: Duration = Duration::from_millis(50);

/// A worker that was killed.
#[derive(Debug)]
pub(super) struct KilledWorker {
    pub(super) instance: String,
    pub(super) at: Instant,
    /// What it held, as far as it was seen.
    pub(super) running: HashSet<String>,
}

/// A scheduler that was killed.
#[derive(Debug)]
pub(super) struct KilledScheduler {
    pub(super) instance: String,
    pub(super) at: Instant,
    /// The lanes that it owned.
    pub(super) lanes: Vec<i16>,
    /// How many lanes there are.
    pub(super) of_lanes: usize,
    pub(super) running: usize,
    pub(super) waiting: usize,
}

/// `kill -9` of the worker that runs most.
///
/// # Errors
/// No worker can be killed.
pub(super) fn kill_worker(cluster: &Cluster, tracker: &Tracker) -> Result<KilledWorker> {
    let seen = tracker.seen();
    let running_on = |worker: &str| -> HashSet<String> {
        let on_it = seen.iter().filter(|(_, seen)| runs_on(seen, worker));
        on_it.map(|(id, _)| id.clone()).collect()
    };
    let members = cluster.members();
    let workers = members
        .iter()
        .filter(|it| it.service() == Service::Worker && it.alive());
    let (instance, running) = workers
        .map(|worker| (worker.instance().to_owned(), running_on(worker.instance())))
        .max_by_key(|(_, running)| running.len())
        .context("there is no worker to kill")?;
    let at = Instant::now();
    cluster.kill(&instance)?;
    Ok(KilledWorker {
        instance,
        at,
        running,
    })
}

/// `kill -9` of the scheduler that has most to do in the lanes it owns.
///
/// # Errors
/// No scheduler owns lanes, or it can't be killed.
pub(super) async fn kill_scheduler(
    cluster: &Cluster,
    ledger: &Ledger,
    tracker: &Tracker,
) -> Result<KilledScheduler> {
    let of_lanes = ledger.lanes().await?;
    let members = cluster.members();
    let mut owners = Vec::new();
    for member in members
        .iter()
        .filter(|it| it.service() == Service::Scheduler && it.alive())
    {
        owners.push((member.instance(), ledger.lanes_of(member.instance()).await?));
    }
    let seen = tracker.seen();
    let owners = owners
        .into_iter()
        .filter(|(_, lanes)| !lanes.is_empty())
        .map(|(instance, lanes)| {
            let standing = |state| {
                let there = seen
                    .iter()
                    .filter(|(id, seen)| seen.state == state && lives_in(id, &lanes));
                there.count()
            };
            KilledScheduler {
                instance: instance.to_owned(),
                running: standing(ExecutionState::Running),
                waiting: standing(ExecutionState::Queued),
                at: Instant::now(),
                of_lanes,
                lanes,
            }
        });
    let busiest = owners.max_by_key(|owner| owner.running + owner.waiting);
    let busiest = busiest.context("no scheduler owns lanes")?;
    cluster.kill(&busiest.instance)?;
    Ok(busiest)
}

impl KilledWorker {
    /// How long it took until nothing was thought to run on it any more.
    ///
    /// # Errors
    /// It took too long.
    pub(super) async fn recovery(&self, tracker: &Tracker) -> Result<Duration> {
        while self.at.elapsed() < RECOVERED_WITHIN {
            let seen = tracker.seen();
            let mut held = self.running.iter().filter_map(|id| seen.get(id));
            if !held.any(|seen| runs_on(seen, &self.instance)) {
                return Ok(self.at.elapsed());
            }
            sleep(POLL).await;
        }
        anyhow::bail!(
            "what {} ran was not taken back within {RECOVERED_WITHIN:?}",
            self.instance
        )
    }
}

impl KilledScheduler {
    /// How long it took until all of its lanes had another owner.
    ///
    /// # Errors
    /// It took too long, or the database can't be read.
    pub(super) async fn recovery(&self, ledger: &Ledger) -> Result<Duration> {
        while self.at.elapsed() < RECOVERED_WITHIN {
            let taken = ledger.owned_by_others(&self.lanes, &self.instance).await?;
            if taken == self.lanes.len() {
                return Ok(self.at.elapsed());
            }
            sleep(POLL).await;
        }
        anyhow::bail!(
            "the lanes of {} were not taken over within {RECOVERED_WITHIN:?}",
            self.instance
        )
    }
}

fn runs_on(seen: &Seen, worker: &str) -> bool {
    seen.state == ExecutionState::Running && seen.worker == worker
}

fn lives_in(id: &str, lanes: &[i16]) -> bool {
    let lane = id.parse::<ExecutionId>().map(|id| id.lane().0);
    lane.is_ok_and(|lane| lanes.iter().any(|one| i32::from(*one) == i32::from(lane)))
}
