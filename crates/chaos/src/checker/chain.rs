//! What the lanes' chains say of themselves and of the rows beside them.

use std::collections::BTreeMap;

use super::view::View;
use super::{Finding, Proof};
use crate::history::ChainRow;

/// By lane, in order of their numbers.
fn lanes<'a>(view: &View<'a>) -> BTreeMap<i16, Vec<&'a ChainRow>> {
    let mut lanes: BTreeMap<i16, Vec<&ChainRow>> = BTreeMap::new();
    for row in &view.history.chain {
        lanes.entry(row.lane).or_default().push(row);
    }
    for rows in lanes.values_mut() {
        rows.sort_by_key(|row| row.n);
    }
    lanes
}

/// Each row follows the one before, or the one that said where it goes on; totals never shrink.
pub(super) fn rows_follow_each_other(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("chain rows follow each other");
    for (lane, rows) in lanes(view) {
        for pair in rows.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            finding.examined += 1;
            let next = before.jump_to.unwrap_or(before.n + 1);
            let grows = before.submitted <= after.submitted
                && before.claimed <= after.claimed
                && before.finished <= after.finished;
            if after.n != next || !grows {
                let proof = Proof::by(before).and(after);
                finding.complain(format!("lane {lane}"), "has a break", proof);
            }
        }
    }
    finding
}

/// At the end nothing waits and nothing runs: as many were accepted, given out and ended as there are.
pub(super) fn totals_are_the_rows(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("the chains' totals are the rows, and nothing waits or runs");
    let mut rows: BTreeMap<i16, (i64, i64, i64)> = BTreeMap::new();
    for row in &view.history.executions {
        rows.entry(row.execution.lane).or_default().0 += 1;
    }
    for row in &view.history.outcomes {
        let counts = rows.entry(row.execution.lane).or_default();
        counts.1 += 1;
        counts.2 += i64::from(row.state.is_final());
    }
    for (lane, chain) in lanes(view) {
        let Some(last) = chain.last() else { continue };
        finding.examined += 1;
        let said = (last.submitted, last.claimed, last.finished);
        let there = rows.remove(&lane).unwrap_or_default();
        if said != there {
            let what = format!("has {there:?} executions, outcomes and ends");
            finding.complain(format!("lane {lane}"), what, Proof::by(last));
        }
    }
    for (lane, there) in rows {
        let what = format!("has {there:?} executions, outcomes and ends");
        finding.complain(format!("lane {lane}"), what, Proof::by(&"and no chain"));
    }
    finding
}
