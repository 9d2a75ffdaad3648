use std::sync::Arc;

use domain::lane::{Lane, Running, Wait};
use domain::{ExecutionId, Micros, Progress};

/// What a lane's memory knows of an execution that isn't over.
#[derive(Clone, Debug)]
pub(crate) enum InMemory {
    /// It waits for a slot.
    Queued { since: Micros },
    /// It is claimed.
    Running {
        fence: u64,
        attempt: u16,
        worker: Arc<str>,
        claimed: Micros,
        queued_us: i64,
        cancelled: bool,
        /// As its worker said last.
        progress: Option<Progress>,
    },
    /// It waits for its time.
    Timed { wait: Wait },
    /// Memory doesn't know it: it is over, waits in its table or beyond the horizon, or never was.
    Unknown,
}

impl InMemory {
    /// What the lane knows of an execution. Walks lines and timers: for people, not for the hot path.
    pub(super) fn of(lane: &Lane, id: ExecutionId) -> Self {
        let seq = id.seq();
        if let Some(running) = lane.running().get(&seq) {
            return running.into();
        }
        let mut runs = lane.waiting().runs();
        if let Some((_, run)) = runs.find(|(_, run)| run.holds(seq)) {
            return Self::Queued {
                since: run.enqueued,
            };
        }
        let timer = lane.timers().iter().find(|(mark, _)| mark.seq == seq);
        timer.map_or(Self::Unknown, |(_, timed)| Self::Timed { wait: timed.wait })
    }
}

impl InMemory {
    /// Whether it is claimed.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// The same, and how far it is.
    pub(super) fn with_progress(mut self, said: Option<&Progress>) -> Self {
        if let Self::Running { progress, .. } = &mut self {
            *progress = said.cloned();
        }
        self
    }
}

impl From<&Running> for InMemory {
    fn from(running: &Running) -> Self {
        Self::Running {
            fence: running.fence,
            attempt: running.budgets.attempts + 1,
            worker: Arc::clone(&running.worker),
            claimed: running.claimed,
            queued_us: running.claimed.0 - running.enqueued.0,
            cancelled: running.cancelled,
            progress: None,
        }
    }
}
