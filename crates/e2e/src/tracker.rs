//! Following many executions through the API, as a client sees them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use proto::v1::{ExecutionState, WatchExecutionsResponse};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use watchwork::client::{Client, is_final};

use crate::handing_in::HandedIn;

/// How many executions one watch follows.
const TOGETHER: usize = 500;

/// Follows executions until they are final. Stops with this value.
pub struct Tracker {
    client: Client,
    shared: Arc<Shared>,
    following: Mutex<Vec<AbortHandle>>,
}

struct Shared {
    seen: Mutex<HashMap<String, Seen>>,
    counts: watch::Sender<Counts>,
}

/// What was last seen of an execution.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When the call began that was acknowledged.
    pub handed_in: Instant,
    /// Where it stands; unspecified before the first word of it.
    pub state: ExecutionState,
    /// The worker of its latest claim; empty: none yet.
    pub worker: String,
    /// When its final state was seen.
    pub ended: Option<Instant>,
}

/// How many executions stand where.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Acknowledged and followed.
    pub followed: usize,
    /// Waiting for a free slot, as far as it was seen.
    pub waiting: usize,
    /// Running.
    pub running: usize,
    /// Waiting for their next attempt.
    pub retrying: usize,
    /// In a final state.
    pub ended: usize,
    /// Why some can't be followed any more; empty if all can.
    pub trouble: String,
}

impl Tracker {
    /// A tracker that follows nothing yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let shared = Shared {
            seen: Mutex::default(),
            counts: watch::Sender::default(),
        };
        Self {
            client,
            shared: Arc::new(shared),
            following: Mutex::default(),
        }
    }

    /// Follows these too, from now on.
    pub fn follow(&self, handed_in: &[HandedIn]) {
        self.shared.add(handed_in);
        for some in handed_in.chunks(TOGETHER) {
            let ids = some.iter().map(|one| one.id.clone()).collect();
            let (client, shared) = (self.client.clone(), Arc::clone(&self.shared));
            let task = tokio::spawn(async move {
                if let Err(status) = shared.watch(&client, ids).await {
                    shared
                        .counts
                        .send_modify(|counts| counts.trouble = status.to_string());
                }
            });
            lock(&self.following).push(task.abort_handle());
        }
    }

    /// How many stand where, now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts.borrow().clone()
    }

    /// All that was seen, by id.
    #[must_use]
    pub fn seen(&self) -> HashMap<String, Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Waits until the counts are as wished.
    ///
    /// # Errors
    /// They aren't within `deadline`, or executions can't be followed any more.
    pub async fn until(
        &self,
        deadline: Duration,
        wish: impl Fn(&Counts) -> bool,
    ) -> Result<Counts> {
        let mut counts = self.shared.counts.subscribe();
        let good = counts.wait_for(|counts| wish(counts) || !counts.trouble.is_empty());
        let waited = timeout(deadline, good)
            .await
            .map(|good| good.map(|it| it.clone()));
        match waited {
            Ok(Ok(counts)) if wish(&counts) => Ok(counts),
            Ok(Ok(counts)) => bail!("can't follow executions: {}", counts.trouble),
            _ => bail!("after {deadline:?} executions stand at {:?}", self.counts()),
        }
    }

    /// Waits until all are final.
    ///
    /// # Errors
    /// They aren't within `deadline`, or can't be followed any more.
    pub async fn until_all_ended(&self, deadline: Duration) -> Result<Counts> {
        self.until(deadline, |counts| counts.ended == counts.followed)
            .await
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        lock(&self.following).iter().for_each(AbortHandle::abort);
    }
}

impl Shared {
    fn add(&self, handed_in: &[HandedIn]) {
        let mut seen = lock(&self.seen);
        for one in handed_in {
            let first = Seen {
                handed_in: one.at,
                state: ExecutionState::Unspecified,
                worker: String::new(),
                ended: None,
            };
            seen.insert(one.id.clone(), first);
        }
        self.counts
            .send_modify(|counts| counts.followed = seen.len());
    }

    async fn watch(&self, client: &Client, ids: Vec<String>) -> Result<(), tonic::Status> {
        let mut changes = client.watch(ids);
        while let Some(change) = changes.next().await? {
            self.note(&change);
        }
        Ok(())
    }

    fn note(&self, change: &WatchExecutionsResponse) {
        let mut seen = lock(&self.seen);
        let Some(one) = seen.get_mut(&change.execution_id) else {
            return;
        };
        let (before, after) = (one.state, change.state());
        one.state = after;
        one.worker.clone_from(&change.worker_id);
        if is_final(after) {
            one.ended.get_or_insert_with(Instant::now);
        }
        self.counts.send_modify(|counts| {
            if let Some(count) = counts.of(before) {
                *count -= 1;
            }
            if let Some(count) = counts.of(after) {
                *count += 1;
            }
        });
    }
}

impl Counts {
    /// Whether there has been word of everything that is followed.
    #[must_use]
    pub fn are_of_all(&self) -> bool {
        self.waiting + self.running + self.retrying + self.ended == self.followed
    }

    fn of(&mut self, state: ExecutionState) -> Option<&mut usize> {
        match state {
            ExecutionState::Scheduled | ExecutionState::Queued => Some(&mut self.waiting),
            ExecutionState::Running => Some(&mut self.running),
            ExecutionState::Retrying => Some(&mut self.retrying),
            ExecutionState::Succeeded
            | ExecutionState::Failed
            | ExecutionState::DeadLettered
            | ExecutionState::Cancelled => Some(&mut self.ended),
            ExecutionState::Unspecified => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
