use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proto::v1;

/// What beats say of the worker: the link sets it, and every session reads it.
#[derive(Default)]
pub(super) struct Shown {
    running: AtomicU32,
    draining: AtomicBool,
}

impl Shown {
    /// So many attempts run.
    pub(super) fn set_running(&self, running: u32) {
        self.running.store(running, Ordering::Relaxed);
    }

    /// It leaves.
    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// The heartbeats to one scheduler and the lease that their answers give.
pub(super) struct Heartbeats {
    lease: Duration,
    interval: Duration,
    last_number: u64,
    /// Beats not answered, oldest first.
    unanswered: VecDeque<(u64, Instant)>,
    until: Instant,
}

/// Terms shorter than this would keep the worker busy with beating.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

impl Heartbeats {
    /// By the scheduler's terms. The Hello, said at `hello`, counts as the first answered beat.
    pub(super) fn new(terms: &v1::Welcome, hello: Instant) -> Self {
        let lease = Duration::from_micros(terms.lease_us);
        // The worker stops a tenth early: it notices by a timer, and killing takes a moment.
        let lease = lease - lease / 10;
        let interval = match terms.heartbeat_us {
            0 => lease / 3,
            asked => Duration::from_micros(asked).min(lease / 2),
        };
        Self {
            lease,
            interval: interval.max(LEAST_INTERVAL),
            last_number: 0,
            unanswered: VecDeque::new(),
            until: hello + lease,
        }
    }

    /// How often to beat.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Until when the lease lasts as things are.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// The next beat, sent at `now`.
    pub(super) fn beat(&mut self, now: Instant, shown: &Shown) -> v1::Heartbeat {
        self.last_number += 1;
        self.unanswered.push_back((self.last_number, now));
        v1::Heartbeat {
            number: self.last_number,
            running: shown.running.load(Ordering::Relaxed),
            draining: shown.draining.load(Ordering::Relaxed),
        }
    }

    /// An answer came: until when the lease lasts now, counted from when the beat was sent. `None`
    /// if the beat is not known, or was answered before.
    pub(super) fn answered(&mut self, number: u64) -> Option<Instant> {
        while let Some((waiting, sent)) = self.unanswered.front().copied() {
            if waiting > number {
                return None;
            }
            self.unanswered.pop_front();
            if waiting == number {
                self.until = self.until.max(sent + self.lease);
                return Some(self.until);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_counts_from_when_the_answered_beat_was_sent() {
        let hello = Instant::now();
        let after = |ms| hello + Duration::from_millis(ms);
        let terms = v1::Welcome {
            lease_us: 10_000_000,
            heartbeat_us: 3_000_000,
            ..v1::Welcome::default()
        };
        let shown = Shown::default();
        let mut beats = Heartbeats::new(&terms, hello);
        assert_eq!(beats.until(), after(9_000));
        assert_eq!(beats.beat(after(3_000), &shown).number, 1);
        assert_eq!(beats.beat(after(6_000), &shown).number, 2);
        assert_eq!(beats.answered(2), Some(after(15_000)));
        assert_eq!(beats.answered(1), None, "an older answer shortens nothing");
        assert_eq!(beats.answered(9), None);
        assert_eq!(beats.until(), after(15_000));
    }
}
