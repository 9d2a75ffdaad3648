//! What the metrics of all processes have in common: buckets, and a guard for labels.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// The value that stands for every label value past a guard's limit.
pub const OTHER_LABEL: &str = "_other";

/// The buckets of every histogram, in seconds: each threshold used in an alert is an edge.
pub fn seconds_buckets() -> Vec<f64> {
    vec![
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        120.0, 300.0, 600.0, 900.0,
    ]
}

/// One family for all guards of the process: a metric with two guarded labels counts both.
static OVERFLOWS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new(
        "metrics_cardinality_overflow_total",
        "Observations whose label value was replaced by _other, because the metric had too many.",
    );
    IntCounterVec::new(opts, &["metric"]).expect("name and labels are legal")
});

/// Bounds a label whose values others choose: past `limit` distinct values further ones are
/// reported as [`OTHER_LABEL`] and counted in `metrics_cardinality_overflow_total{metric}`.
pub struct LabelGuard {
    limit: usize,
    admitted: RwLock<HashSet<Box<str>>>,
    overflows: IntCounter,
}

impl LabelGuard {
    /// A guard for a label of `metric`, which admits `limit` values.
    pub fn new(metric: &'static str, limit: usize, registry: &Registry) -> Self {
        // Another guard has registered the family already: the one registration serves all.
        let _ = registry.register(Box::new(OVERFLOWS.clone()));
        Self {
            limit,
            admitted: RwLock::default(),
            overflows: OVERFLOWS.with_label_values(&[metric]),
        }
    }

    /// `value` if it is admitted (the first `limit` distinct ones are), else [`OTHER_LABEL`].
    pub fn admit<'a>(&self, value: &'a str) -> Cow<'a, str> {
        if self.is_admitted(value) || self.admit_new(value) {
            return Cow::Borrowed(value);
        }
        self.overflows.inc();
        Cow::Borrowed(OTHER_LABEL)
    }

    fn is_admitted(&self, value: &str) -> bool {
        self.admitted
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(value)
    }

    fn admit_new(&self, value: &str) -> bool {
        let mut admitted = self
            .admitted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if admitted.len() < self.limit {
            admitted.insert(value.into());
            return true;
        }
        // Another thread may have admitted it between the two locks.
        admitted.contains(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_past_the_limit_become_other_and_are_counted() {
        let registry = Registry::new();
        let guard = LabelGuard::new("guarded_total", 2, &registry);
        let answers = ["a", "b", "c", "a", "d"].map(|value| guard.admit(value).into_owned());
        assert_eq!(answers, ["a", "b", OTHER_LABEL, "a", OTHER_LABEL]);
        assert_eq!(guard.overflows.get(), 2);
        assert_eq!(
            registry.gather()[0].name(),
            "metrics_cardinality_overflow_total"
        );
    }

    #[test]
    fn two_guards_may_share_a_metric() {
        let registry = Registry::new();
        let queues = LabelGuard::new("shared_total", 0, &registry);
        let jobs = LabelGuard::new("shared_total", 0, &registry);
        queues.admit("a");
        jobs.admit("b");
        assert_eq!(jobs.overflows.get(), 2);
    }
}
