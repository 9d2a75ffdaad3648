use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: microseconds since 1970, UTC, by the database's clock unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Micros(pub i64);

/// Microseconds of an hour.
const HOUR: i64 = 3_600_000_000;

impl Micros {
    /// The hour that the point lies in.
    #[must_use]
    pub fn hour(self) -> Hour {
        Hour(i32::try_from(self.0.div_euclid(HOUR)).unwrap_or(i32::MAX))
    }

    /// The point as milliseconds since 1970; 0 for what lies before.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0 / 1_000).unwrap_or(0)
    }

    /// The point `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Micros {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(0).plus(since)
    }
}

impl From<Micros> for SystemTime {
    fn from(time: Micros) -> Self {
        UNIX_EPOCH + Duration::from_micros(u64::try_from(time.0).unwrap_or(0))
    }
}

/// Hours since 1970: what windows are counted in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Hour(pub i32);

impl Hour {
    /// The hour's first instant.
    #[must_use]
    pub fn start(self) -> Micros {
        Micros(i64::from(self.0) * HOUR)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hours of a window: from the first to the one after the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HourRange {
    /// The first.
    pub from: Hour,
    /// The one after the last.
    pub to: Hour,
}

impl HourRange {
    /// Whether an hour is one of them.
    #[must_use]
    pub fn contains(&self, hour: Hour) -> bool {
        (self.from..self.to).contains(&hour)
    }
}

/// A set of hours, as ranges that don't touch.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HourSet(BTreeMap<Hour, Hour>);

impl HourSet {
    /// Adds the hours of a range.
    pub fn insert(&mut self, range: HourRange) {
        let HourRange { mut from, mut to } = range;
        let touching: Vec<(Hour, Hour)> = self.ranges_until(to);
        for (begin, end) in touching.into_iter().filter(|(_, end)| *end >= range.from) {
            self.0.remove(&begin);
            from = from.min(begin);
            to = to.max(end);
        }
        self.0.insert(from, to);
    }

    /// Takes the hours of a range out.
    pub fn remove(&mut self, range: HourRange) {
        for (begin, end) in self.ranges_until(range.to) {
            if end <= range.from {
                continue;
            }
            self.0.remove(&begin);
            if begin < range.from {
                self.0.insert(begin, range.from);
            }
            if range.to < end {
                self.0.insert(range.to, end);
            }
        }
    }

    /// Whether an hour is in it.
    #[must_use]
    pub fn contains(&self, hour: Hour) -> bool {
        let before = self.0.range(..=hour).next_back();
        before.is_some_and(|(_, end)| hour < *end)
    }

    /// Whether all hours of a range are in it.
    #[must_use]
    pub fn covers(&self, range: HourRange) -> bool {
        let before = self.0.range(..=range.from).next_back();
        range.from >= range.to || before.is_some_and(|(_, end)| range.to <= *end)
    }

    /// Its ranges, the earliest first.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = HourRange> {
        self.0.iter().map(|(from, to)| HourRange {
            from: *from,
            to: *to,
        })
    }

    fn ranges_until(&self, hour: Hour) -> Vec<(Hour, Hour)> {
        self.0
            .range(..=hour)
            .map(|(from, to)| (*from, *to))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_hours_is_the_set_of_its_hours(
            steps in prop::collection::vec((any::<bool>(), 0i32..40, 1i32..9), 0..20),
        ) {
            let (mut set, mut hours) = (HourSet::default(), BTreeSet::new());
            for (insert, from, count) in steps {
                let range = HourRange { from: Hour(from), to: Hour(from + count) };
                if insert {
                    set.insert(range);
                    hours.extend(from..from + count);
                } else {
                    set.remove(range);
                    (from..from + count).for_each(|hour| { hours.remove(&hour); });
                }
                let covers = (from..from + count).all(|hour| hours.contains(&hour));
                prop_assert_eq!(set.covers(range), covers);
            }
            for hour in 0..50 {
                prop_assert_eq!(set.contains(Hour(hour)), hours.contains(&hour));
            }
            let gaps = set.ranges().zip(set.ranges().skip(1));
            prop_assert!(gaps.into_iter().all(|(one, next)| one.to < next.from), "they don't touch");
        }
    }
}
