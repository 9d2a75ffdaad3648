//! What the tables say of attempts and their ends.

use super::view::View;
use super::{Finding, Proof};
use crate::history::{Ended, OutcomeRow};

/// Every execution comes to its end, once.
pub(super) fn one_end(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("every execution has one final outcome, and no later one");
    for row in &view.history.executions {
        finding.examined += 1;
        let outcomes = view.outcomes_of(row.execution);
        let ends = outcomes.iter().filter(|outcome| outcome.state.is_final());
        let what = match ends.count() {
            0 => "has not come to an end",
            1 if outcomes.last().is_some_and(|last| last.state.is_final()) => continue,
            1 => "went on after its end",
            _ => "has ended several times",
        };
        finding.complain(row.execution, what, Proof::by(row).and(&outcomes));
    }
    finding
}

/// A claim's number comes once and grows; failures spend attempts, and nothing else does.
pub(super) fn attempts_count_failures(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("fences grow, and attempts count up by failures alone");
    for (execution, outcomes) in &view.outcomes {
        let mut next = 1;
        let mut last_fence = 0;
        for outcome in outcomes {
            finding.examined += 1;
            if outcome.fence <= last_fence {
                finding.complain(execution, "has a fence twice", Proof::by(&outcomes));
            }
            if outcome.attempt != next {
                let what = format!("attempt {} should be {next}", outcome.attempt);
                finding.complain(execution, what, Proof::by(&outcomes));
            }
            last_fence = outcome.fence;
            next = outcome.attempt + u32::from(spends_an_attempt(outcome));
        }
    }
    finding
}

fn spends_an_attempt(outcome: &OutcomeRow) -> bool {
    match outcome.result {
        Ended::Success | Ended::Error | Ended::Panic | Ended::Timeout => true,
        Ended::Cancelled | Ended::Lost | Ended::Returned | Ended::Snoozed | Ended::Unknown(_) => {
            false
        }
    }
}

/// A result with a lower fence never follows one with a higher, and no attempt is given out before the
/// last one is closed: by the database's clock, as schedulers read it.
pub(super) fn recorded_in_order(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("an attempt is given out after the one before was closed");
    for (execution, outcomes) in &view.outcomes {
        for pair in outcomes.windows(2) {
            finding.examined += 1;
            if pair[1].claimed_at >= pair[0].at {
                continue;
            }
            let proof = Proof::by(pair[0]).and(pair[1]);
            finding.complain(execution, "was given out while it was out", proof);
        }
    }
    finding
}
