use std::time::{Duration, Instant};

/// What is handed out beyond the free slots should begin within this time.
pub(super) const PERIOD: Duration = Duration::from_millis(20);
/// At most as many times the slots, however fast handlers are.
const MOST: u32 = 4;

/// How many tasks the worker may be handed beyond its slots: as many as it finishes in a period, so
/// that a slot which comes free has its next task at hand, and none waits long for one. Slow
/// handlers get none: what waits at a worker can't go to another.
pub(super) struct Prefetch {
    slots: u32,
    since: Instant,
    /// What ended since then, and how long it ran in all.
    ended: u32,
    ran: Duration,
    /// By the periods before, the last one counting half.
    tasks: f64,
}

impl Prefetch {
    pub(super) fn new(slots: u32, now: Instant) -> Self {
        Self {
            slots,
            since: now,
            ended: 0,
            ran: Duration::ZERO,
            tasks: 0.0,
        }
    }

    /// An attempt ended that ran so long.
    pub(super) fn note_end(&mut self, ran: Duration) {
        self.ended = self.ended.saturating_add(1);
        self.ran += ran;
    }

    /// How many they are now.
    pub(super) fn tasks(&mut self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= PERIOD {
            self.tasks = match self.ended {
                0 => 0.0,
                ended => (self.tasks + self.of_period(ended, elapsed)) / 2.0,
            };
            (self.since, self.ended, self.ran) = (now, 0, Duration::ZERO);
        }
        self.tasks as u32
    }

    /// What ended in a period, but no more than the slots would finish in one if all that they ran
    /// took as long: slow handlers that happen to end together are slow all the same.
    fn of_period(&self, ended: u32, elapsed: Duration) -> f64 {
        let ended = f64::from(ended);
        let slots = f64::from(self.slots);
        let measured = ended * PERIOD.div_duration_f64(elapsed);
        let lasting = slots * ended * PERIOD.div_duration_f64(self.ran);
        measured.min(lasting).min(slots * f64::from(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it comes to after so many periods with so many ends in each.
    fn after(periods: u32, ends: u32, ran: Duration) -> u32 {
        let begin = Instant::now();
        let mut prefetch = Prefetch::new(100, begin);
        for period in 1..=periods {
            for _ in 0..ends {
                prefetch.note_end(ran);
            }
            prefetch.tasks(begin + period * PERIOD);
        }
        prefetch.tasks(begin + periods * PERIOD)
    }

    const NO_TIME: Duration = Duration::ZERO;

    #[test]
    fn it_is_what_ends_in_a_period_up_to_four_times_the_slots() {
        assert_eq!(after(10, 0, NO_TIME), 0);
        assert_eq!(after(10, 70, NO_TIME), 69);
        assert_eq!(after(20, 70, Duration::from_millis(1)), 69);
        assert_eq!(after(20, 5_000, NO_TIME), 399);
    }

    #[test]
    fn slow_handlers_that_end_together_are_slow_all_the_same() {
        assert_eq!(after(1, 100, Duration::from_secs(10)), 0);
        assert_eq!(after(10, 100, Duration::from_millis(100)), 19);
    }

    #[test]
    fn a_period_without_an_end_ends_it_and_a_long_one_counts_by_its_length() {
        let begin = Instant::now();
        let mut prefetch = Prefetch::new(100, begin);
        let mut ended = |count: u32, at: Duration| {
            for _ in 0..count {
                prefetch.note_end(NO_TIME);
            }
            prefetch.tasks(begin + at)
        };
        assert_eq!(ended(200, PERIOD / 2), 0, "too early to say");
        assert_eq!(ended(0, PERIOD * 2), 50);
        assert_eq!(ended(0, PERIOD * 3), 0);
    }
}
