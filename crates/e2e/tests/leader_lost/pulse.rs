//! One execution after the other in every queue, and how long a lane was without one that ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use e2e::{submission, until};
use proto::v1::Submission;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;
use watchwork::client::Client;

/// Between the end of one and the next.
const REST: Duration = Duration::from_millis(100);
/// After a call that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How far ahead those are due that wait for a timer.
const DUE_IN: Duration = Duration::from_millis(100);

/// When executions ended, by lane.
type Beats = Arc<Mutex<BTreeMap<u32, Vec<Instant>>>>;

/// Executions that go on and on.
pub(crate) struct Pulse {
    beats: Beats,
    /// How many lanes there are.
    lanes: usize,
    probes: JoinSet<()>,
}

/// The longest times without an end, in the lanes of who went and in the others.
pub(crate) struct Gaps {
    pub(crate) own: Duration,
    pub(crate) others: Duration,
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, others } = self;
        write!(f, "own lanes paused {own:.2?}, others {others:.2?}")
    }
}

impl Pulse {
    /// Begins in queues `queue-0` and so on.
    pub(crate) fn of(client: &Client, queues: usize, lanes: u16) -> Self {
        let beats = Beats::default();
        let mut probes = JoinSet::new();
        for queue in 0..queues {
            probes.spawn(probe(
                client.clone(),
                format!("queue-{queue}"),
                Arc::clone(&beats),
            ));
        }
        Self {
            beats,
            lanes: usize::from(lanes),
            probes,
        }
    }

    pub(crate) fn stop(mut self) {
        self.probes.abort_all();
    }

    /// Waits until something that was handed in since then has ended in every lane.
    pub(crate) async fn until_in_every_lane(
        &self,
        since: Instant,
        deadline: Duration,
    ) -> Result<()> {
        let beaten = || {
            let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
            let late = |times: &&Vec<Instant>| times.last().is_some_and(|last| *last > since);
            beats.values().filter(late).count() == self.lanes
        };
        until("an end in every lane", deadline, async || Ok(beaten())).await
    }

    /// How long lanes paused since shortly before `at`.
    pub(crate) fn gaps(&self, at: Instant, own: &BTreeSet<u32>) -> Gaps {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = |is_own: bool| {
            let lanes = beats
                .iter()
                .filter(|(lane, _)| own.contains(lane) == is_own);
            lanes
                .map(|(_, times)| longest_gap(times, at))
                .max()
                .unwrap_or_default()
        };
        Gaps {
            own: longest(true),
            others: longest(false),
        }
    }
}

/// Of the gaps that end after `at`; what of them was before isn't its doing.
fn longest_gap(times: &[Instant], at: Instant) -> Duration {
    let pairs = times.windows(2).filter(|pair| pair[1] > at);
    let gaps = pairs.map(|pair| pair[1].saturating_duration_since(pair[0].max(at)));
    gaps.max().unwrap_or_default()
}

async fn probe(client: Client, queue: String, beats: Beats) {
    for number in 0_u64.. {
        let Ok(id) = client.submit(work(&queue, number)).await else {
            sleep(AGAIN_AFTER).await;
            continue;
        };
        let ended = loop {
            match client.wait_for(&id).await {
                Ok(execution) => break execution,
                Err(_) => sleep(AGAIN_AFTER).await,
            }
        };
        note(&beats, ended.partition);
        sleep(REST).await;
    }
}

fn note(beats: &Beats, lane: u32) {
    let mut beats = beats.lock().unwrap_or_else(PoisonError::into_inner);
    beats.entry(lane).or_default().push(Instant::now());
}

/// Every other one waits for a timer first.
fn work(queue: &str, number: u64) -> Submission {
    let due = SystemTime::now() + DUE_IN;
    Submission {
        queue: queue.to_owned(),
        due_at: (number % 2 == 1).then(|| due.into()),
        ..submission("noop", &json!({}))
    }
}
