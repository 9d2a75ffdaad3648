//! What is measured, and the values that the rounds gave.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::processes::Cost;

/// A figure of the report; the order is the report's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Figure {
    RawStatusRow,
    RawInsertOnly,
    RawBatch,
    RawSingle,
    Drain,
    Sustained,
    Batch,
    Single,
    SingleP50,
    SingleP99,
    EntryP50,
    EntryP99,
    AnswerP50,
    AnswerP99,
}

impl Figure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RawStatusRow => "status rows, full cycle, 500 × 2 clients",
            Self::RawInsertOnly => "inserts only, full cycle with outcome rows, 500 × 2 clients",
            Self::RawBatch => "insert 500 × 4 clients",
            Self::RawSingle => "insert 1 × 32 clients",
            Self::Drain => "drain: waiting executions run until durable, jobs/s",
            Self::Sustained => "submit and run at once, jobs/s finished",
            Self::Batch => "submit, 500 a call × 4 callers, /s",
            Self::Single => "submit, 1 a call × 32 callers, /s",
            Self::SingleP50 => "… a call's time, p50, ms",
            Self::SingleP99 => "… a call's time, p99, ms",
            Self::EntryP50 => "at 100/s: from the call to the handler, p50, ms",
            Self::EntryP99 => "… p99, ms",
            Self::AnswerP50 => "at 100/s: from the call to its answer, p50, ms",
            Self::AnswerP99 => "… p99, ms",
        }
    }

    /// The raw limits that it stands beside.
    pub(crate) fn limits(self) -> &'static [Self] {
        match self {
            Self::Drain | Self::Sustained => &[Self::RawStatusRow, Self::RawInsertOnly],
            Self::Batch => &[Self::RawBatch],
            Self::Single => &[Self::RawSingle],
            _ => &[],
        }
    }

    pub(crate) fn is_raw(self) -> bool {
        self <= Self::RawSingle
    }

    /// Whether it is a time rather than a rate.
    pub(crate) fn is_time(self) -> bool {
        self >= Self::SingleP50
    }
}

/// The values of all rounds.
#[derive(Default, Debug)]
pub(crate) struct Findings {
    values: BTreeMap<Figure, Vec<f64>>,
    costs: BTreeMap<Figure, Vec<Cost>>,
}

impl Findings {
    pub(crate) fn add(&mut self, figure: Figure, value: f64) {
        self.values.entry(figure).or_default().push(value);
    }

    /// Adds what the jobs of a figure cost.
    pub(crate) fn add_cost(&mut self, figure: Figure, cost: Cost) {
        self.costs.entry(figure).or_default().push(cost);
    }

    /// Adds two percentiles of times that were taken.
    pub(crate) fn add_times(&mut self, p50: Figure, p99: Figure, mut times: Vec<Duration>) {
        times.sort_unstable();
        for (figure, share) in [(p50, 0.5), (p99, 0.99)] {
            if let Some(time) = times.get(place_of(share, times.len())) {
                self.add(figure, time.as_secs_f64() * 1e3);
            }
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = (Figure, &[f64])> {
        self.values
            .iter()
            .map(|(figure, values)| (*figure, values.as_slice()))
    }

    pub(crate) fn costs(&self) -> impl Iterator<Item = (Figure, &[Cost])> {
        self.costs
            .iter()
            .map(|(figure, costs)| (*figure, costs.as_slice()))
    }

    pub(crate) fn median(&self, figure: Figure) -> Option<f64> {
        self.values
            .get(&figure)
            .map(|values| median(values.iter().copied()))
    }
}

/// The middle one of some values, the lower one of two; 0 of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0)
}

/// Where a percentile stands among so many sorted values.
fn place_of(share: f64, count: usize) -> usize {
    // Counts are small and shares below one: no precision is lost that matters.
    (count as f64 * share) as usize
}
