//! Waits between attempts, drawn at random so that many gateways don't come back at once.

use std::time::Duration;

/// Doubles from a first wait up to a longest one; each wait is drawn between half and all of it.
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// How long to wait now.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(rand::random_range(0.5..1.0))
    }

    /// It worked: the next trouble begins with the first wait again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}
