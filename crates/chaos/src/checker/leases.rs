//! One right to run at a time, as seen from where it is used.

use super::view::{Call, View};
use super::{Finding, Proof};

/// Never two at once; a process that stands still can't stop what it runs, and nothing else is an excuse.
pub(super) fn no_two_at_once(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("no two calls of an execution overlap, but by a pause");
    for (execution, calls) in &view.calls {
        for (place, first) in calls.iter().enumerate() {
            for second in &calls[place + 1..] {
                finding.examined += 1;
                let (from, to) = (second.begin.at, first.until.min(second.until));
                if from >= to {
                    continue;
                }
                let stale = stale_of(first, second);
                if view.was_paused(stale.begin.pid, from, to) {
                    finding.explained += 1;
                    continue;
                }
                let proof = Proof::by(first).and(second);
                finding.complain(execution, "ran twice at a time", proof);
            }
        }
    }
    finding
}

/// What is over stays over.
pub(super) fn nothing_after_the_end(view: &View<'_>) -> Finding {
    let mut finding =
        Finding::of("nothing is called after the end that is recorded, but after a pause");
    for (execution, outcomes) in &view.outcomes {
        let Some(last) = outcomes.iter().find(|outcome| outcome.state.is_final()) else {
            continue;
        };
        let calls = view.calls_of(*execution);
        let last_call = calls.iter().find(|call| call.begin.fence == last.fence);
        finding.examined += 1;
        for call in calls {
            let later = call.begin.fence > last.fence;
            let stale = last_call.is_some_and(|last| {
                call.begin.fence < last.begin.fence && call.begin.at > last.until
            });
            let at = call.begin.at;
            if stale && view.was_paused(call.begin.pid, last_call.map_or(at, |it| it.until), at) {
                finding.explained += 1;
            } else if later || stale {
                let proof = Proof::by(last).and(&last_call).and(call);
                finding.complain(execution, "was called after its end", proof);
            }
        }
    }
    finding
}

/// Whose right was the older one.
fn stale_of<'a, 'b>(one: &'a Call<'b>, other: &'a Call<'b>) -> &'a Call<'b> {
    if one.begin.fence <= other.begin.fence {
        one
    } else {
        other
    }
}
