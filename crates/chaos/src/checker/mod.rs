//! The checker: it knows the promises and nothing of how they are kept. Each invariant says how much it
//! has examined; one that examined nothing says nothing, and counts as broken.

mod calls;
mod causes;
mod chain;
mod leases;
mod outcomes;
mod submissions;
mod view;

use std::fmt;

use crate::history::History;
use view::View;

/// What a history says of all promises.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each invariant.
    pub findings: Vec<Finding>,
}

/// What a history says of one invariant.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which, as a sentence.
    pub invariant: &'static str,
    /// How many things it looked at.
    pub examined: usize,
    /// How many of them are allowed only because a fault explains them.
    pub explained: usize,
    /// Those that are as they must not be.
    pub violations: Vec<Violation>,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Of whom: an execution's place, a key, a lane or a process.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// The lines and rows that show it.
    pub proof: Vec<String>,
}

/// Compares a history with all promises.
#[must_use]
pub fn check(history: &History) -> Report {
    const INVARIANTS: [fn(&View<'_>) -> Finding; 17] = [
        submissions::acknowledged_in_time,
        submissions::stored_as_told,
        submissions::one_key_one_execution,
        submissions::nothing_unmeant,
        outcomes::one_end,
        outcomes::attempts_count_failures,
        outcomes::recorded_in_order,
        calls::a_fence_is_called_once,
        calls::called_in_order,
        calls::recorded_as_called,
        calls::accounted_for,
        leases::no_two_at_once,
        leases::nothing_after_the_end,
        causes::losses,
        causes::ends_of_processes,
        chain::rows_follow_each_other,
        chain::totals_are_the_rows,
    ];
    let view = View::of(history);
    Report {
        findings: INVARIANTS
            .iter()
            .map(|invariant| invariant(&view))
            .collect(),
    }
}

impl Report {
    /// Whether all promises were kept, as far as can be seen.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.findings.iter().all(Finding::holds)
    }
}

impl Finding {
    fn of(invariant: &'static str) -> Self {
        Self {
            invariant,
            examined: 0,
            explained: 0,
            violations: Vec::new(),
        }
    }

    /// Whether something was examined, and nothing is wrong with it.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.examined > 0 && self.violations.is_empty()
    }

    fn complain(&mut self, subject: impl fmt::Display, what: impl Into<String>, proof: Proof) {
        self.violations.push(Violation {
            subject: subject.to_string(),
            what: what.into(),
            proof: proof.0,
        });
    }
}

/// Lines and rows that show something.
#[derive(Default)]
struct Proof(Vec<String>);

impl Proof {
    fn by(one: &dyn fmt::Debug) -> Self {
        Self::default().and(one)
    }

    fn and(mut self, one: &dyn fmt::Debug) -> Self {
        self.0.push(format!("{one:?}"));
        self
    }
}
