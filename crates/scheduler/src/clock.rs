use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use domain::Micros;
use tokio::time::Instant;

/// The database's clock as this process reads it: its own monotonic clock, set right by every renewal
/// of its leases.
#[derive(Debug)]
pub(crate) struct DatabaseClock {
    begin: Instant,
    /// The database's time at `begin`, in microseconds.
    offset: AtomicI64,
}

impl DatabaseClock {
    pub(crate) fn new() -> Self {
        let now = Micros::from(std::time::SystemTime::now());
        Self {
            begin: Instant::now(),
            offset: AtomicI64::new(now.0),
        }
    }

    /// The database said `time` in answer to a request sent at `sent`: it was so late somewhere in between. A
    /// clock that says the same stays as it is, since quicker answers have set it; any other is set as little as
    /// makes it agree. An answer that was held up for seconds sets nothing wrong so.
    pub(crate) fn set(&self, time: Micros, sent: Instant) {
        let micros = |since: Duration| i64::try_from(since.as_micros()).unwrap_or(0);
        let (sent, received) = (
            sent.saturating_duration_since(self.begin),
            self.begin.elapsed(),
        );
        let (least, most) = (time.0 - micros(received), time.0 - micros(sent));
        let offset = self.offset.load(Ordering::Relaxed);
        self.offset
            .store(offset.clamp(least, most), Ordering::Relaxed);
    }

    /// The database's time.
    pub(crate) fn now(&self) -> Micros {
        Micros(self.offset.load(Ordering::Relaxed)).plus(self.begin.elapsed())
    }
}

/// Until when this scheduler may act as the owner of its lanes: past it, it neither writes nor
/// answers heartbeats or results.
#[derive(Debug)]
pub(crate) struct Deadline {
    begin: Instant,
    /// Microseconds after `begin`.
    until: AtomicI64,
    /// How often it had passed when it was renewed.
    lapses: AtomicU64,
}

/// A time without a break in which a [`Deadline`] had not passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Term(u64);

impl Deadline {
    pub(crate) fn passed_already() -> Self {
        Self {
            begin: Instant::now(),
            until: AtomicI64::new(-1),
            lapses: AtomicU64::new(0),
        }
    }

    /// A lease was renewed by a request sent at `sent`: counted from then, since the database may have
    /// counted from then, and short of a margin for clocks that run at different speeds.
    pub(crate) fn renewed(&self, sent: Instant, lease: Duration) {
        if self.has_passed() {
            self.lapses.fetch_add(1, Ordering::Release);
        }
        let until = sent.duration_since(self.begin) + lease - lease / 16;
        self.until.store(
            i64::try_from(until.as_micros()).unwrap_or(i64::MAX),
            Ordering::Release,
        );
    }

    /// Whether it has passed.
    pub(crate) fn has_passed(&self) -> bool {
        let now = i64::try_from(self.begin.elapsed().as_micros()).unwrap_or(i64::MAX);
        now >= self.until.load(Ordering::Acquire)
    }

    /// The term that lasts; none if the deadline has passed. Between two looks that gave the same term
    /// nobody else can have had a lane of this owner, however long the process was stopped between them.
    pub(crate) fn term(&self) -> Option<Term> {
        (!self.has_passed()).then(|| Term(self.lapses.load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_counts_from_before_the_renewal_was_sent() {
        let deadline = Deadline::passed_already();
        assert!(deadline.has_passed());
        deadline.renewed(Instant::now(), Duration::from_secs(8));
        assert!(!deadline.has_passed());
        let Some(long_ago) = Instant::now().checked_sub(Duration::from_millis(7_600)) else {
            return;
        };
        let late = Deadline {
            begin: long_ago,
            until: AtomicI64::new(-1),
            lapses: AtomicU64::new(0),
        };
        late.renewed(long_ago, Duration::from_secs(8));
        assert!(late.has_passed(), "7.5 s of 8 s are trusted");
    }

    #[test]
    fn a_term_ends_with_the_first_lapse_and_lasts_through_renewals_in_time() {
        let deadline = Deadline::passed_already();
        assert_eq!(deadline.term(), None);
        deadline.renewed(Instant::now(), Duration::from_secs(8));
        let first = deadline.term();
        assert!(first.is_some());
        deadline.renewed(Instant::now(), Duration::from_secs(8));
        assert_eq!(deadline.term(), first, "renewed in time");
        deadline.renewed(Instant::now(), Duration::ZERO);
        assert_eq!(deadline.term(), None, "passed");
        deadline.renewed(Instant::now(), Duration::from_secs(8));
        assert!(
            deadline.term().is_some_and(|term| Some(term) != first),
            "another term"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_held_up_sets_no_clock_wrong() {
        let clock = DatabaseClock::new();
        let answer = async |time, took| {
            let sent = Instant::now();
            tokio::time::advance(Duration::from_micros(took)).await;
            clock.set(Micros(time), sent);
            clock.now().0
        };
        let now = answer(5_000_000, 2).await;
        assert!((5_000_000..=5_000_002).contains(&now), "{now}");
        let now = answer(5_000_010, 2_000_000).await;
        assert!(
            (7_000_000..=7_000_002).contains(&now),
            "said at its begin: {now}"
        );
        let now = answer(9_000_000, 2_000_000).await;
        assert!(
            (9_000_000..=9_000_002).contains(&now),
            "said at its end: {now}"
        );
        let now = answer(8_000_000, 100).await;
        assert!(
            (8_000_000..=8_000_100).contains(&now),
            "it was set back: {now}"
        );
    }

    #[test]
    fn the_clock_follows_the_databases() {
        let clock = DatabaseClock::new();
        clock.set(Micros(5_000_000), Instant::now());
        let now = clock.now().0;
        assert!((5_000_000..6_000_000).contains(&now), "{now}");
    }
}
