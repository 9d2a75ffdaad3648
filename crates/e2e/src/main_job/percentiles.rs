//! Durations in few numbers.

use std::time::Duration;

/// Three percentiles of many durations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percentiles {
    pub(super) p50: Duration,
    pub(super) p95: Duration,
    pub(super) p99: Duration,
}

impl Percentiles {
    /// By the nearest rank; all zero for none.
    pub(super) fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            p50: rank(50),
            p95: rank(95),
            p99: rank(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let percentiles = Percentiles::of((1..=200).map(Duration::from_millis));
        let got = [percentiles.p50, percentiles.p95, percentiles.p99];
        assert_eq!(got, [100, 190, 198].map(Duration::from_millis));
        assert_eq!(Percentiles::of([]).p99, Duration::ZERO);
    }
}
