use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How one attempt is told to stop, from another thread.
#[derive(Default)]
pub(crate) struct Stop {
    level: AtomicU8,
    /// Since when the execution is known to be cancelled.
    cancelled: OnceLock<Instant>,
    changed: Notify,
    /// What the handler may listen to.
    pub(crate) asked: CancellationToken,
}

/// How urgent it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Urgency {
    /// The handler is asked to come to an end by itself.
    Ask = 1,
    /// The handler is dropped where it stands.
    Drop = 2,
}

impl Stop {
    /// Asks for it. What was asked before is never taken back.
    pub(crate) fn request(&self, urgency: Urgency) {
        self.level.fetch_max(urgency as u8, Ordering::AcqRel);
        self.asked.cancel();
        self.changed.notify_one();
    }

    /// Asks for it because somebody cancelled the execution.
    pub(crate) fn cancel(&self, now: Instant) {
        // Told twice: the grace counts from the first time.
        let _ = self.cancelled.set(now);
        self.request(Urgency::Ask);
    }

    /// Since when the execution is known to be cancelled; `None`: it isn't.
    pub(crate) fn cancelled(&self) -> Option<Instant> {
        self.cancelled.get().copied()
    }

    /// Whether this much has been asked.
    pub(crate) fn is_at_least(&self, urgency: Urgency) -> bool {
        self.level.load(Ordering::Acquire) >= urgency as u8
    }

    /// Returns when this much has been asked. One waiter at a time.
    pub(crate) async fn at_least(&self, urgency: Urgency) {
        while !self.is_at_least(urgency) {
            self.changed.notified().await;
        }
    }
}
