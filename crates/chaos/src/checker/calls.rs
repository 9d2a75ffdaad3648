//! What handlers did, beside what the tables say of it.

use std::collections::HashMap;

use super::view::{Call, View};
use super::{Finding, Proof};
use crate::history::{Ended, How, OutcomeRow};

/// A right to run is used once.
pub(super) fn a_fence_is_called_once(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("a fence is called once");
    for (execution, calls) in &view.calls {
        let mut first: HashMap<u64, &Call<'_>> = HashMap::new();
        for call in calls {
            finding.examined += 1;
            if let Some(first) = first.insert(call.begin.fence, call) {
                let proof = Proof::by(first.begin).and(call.begin);
                finding.complain(execution, "was called twice under one fence", proof);
            }
        }
    }
    finding
}

/// A later right makes earlier ones void; who sleeps may not have heard of it.
pub(super) fn called_in_order(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("calls begin in the order of their fences, but after a pause");
    for (execution, calls) in &view.calls {
        for pair in calls.windows(2) {
            let (before, after) = (pair[0].begin, pair[1].begin);
            finding.examined += 1;
            if after.fence >= before.fence {
                continue;
            }
            if view.was_paused(after.pid, before.at, after.at) {
                finding.explained += 1;
                continue;
            }
            let proof = Proof::by(before).and(after);
            finding.complain(execution, "was begun by a right that was void", proof);
        }
    }
    finding
}

/// No stale and no made-up result is accepted: what is recorded under a fence was done under it.
pub(super) fn recorded_as_called(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("a recorded result is what the call with its fence did");
    for outcome in &view.history.outcomes {
        let how = match outcome.result {
            Ended::Success => Some(How::Success),
            Ended::Error => Some(How::Error),
            Ended::Snoozed => Some(How::Snoozed),
            // Decided without the handler.
            Ended::Lost | Ended::Returned => continue,
            // No handler here does so, and nobody cancels.
            Ended::Panic | Ended::Timeout | Ended::Cancelled | Ended::Unknown(_) => None,
        };
        finding.examined += 1;
        let mut calls = view.calls_of(outcome.execution).iter();
        let call = calls.find(|call| call.begin.fence == outcome.fence);
        let Some(call) = call else {
            finding.complain(outcome.execution, "was never called", Proof::by(outcome));
            continue;
        };
        if call.how() != how || how.is_none() || !is_of(outcome, call) {
            let proof = Proof::by(outcome).and(call);
            finding.complain(outcome.execution, "did something else", proof);
        }
    }
    finding
}

/// Nothing is run behind the tables' back.
pub(super) fn accounted_for(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("every call has its outcome in the tables");
    for (execution, calls) in &view.calls {
        let outcomes = view.outcomes_of(*execution);
        for call in calls {
            finding.examined += 1;
            let outcome = outcomes.iter().find(|row| row.fence == call.begin.fence);
            match outcome {
                None => finding.complain(execution, "nobody knows of it", Proof::by(call.begin)),
                Some(outcome) if !is_of(outcome, call) => {
                    let proof = Proof::by(call.begin).and(outcome);
                    finding.complain(execution, "is booked on somebody else", proof);
                }
                Some(_) => {}
            }
        }
    }
    finding
}

fn is_of(outcome: &OutcomeRow, call: &Call<'_>) -> bool {
    outcome.worker == call.begin.worker && outcome.attempt == call.begin.attempt
}
