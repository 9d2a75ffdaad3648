//! What clients were promised.

use std::collections::{BTreeMap, BTreeSet};

use super::view::View;
use super::{Finding, Proof};
use crate::clock::Micros;
use crate::history::{ClientLine, ExecutionRow, Said};
use crate::place::Place;

/// How long clients may have to try: faults follow each other, and leases outlast them.
const HEARD_WITHIN: Micros = 60_000_000;

/// Clients try until they are heard, and are, though not always at once.
pub(super) fn acknowledged_in_time(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("every submission is acknowledged within a minute");
    let mut firsts: BTreeMap<&str, (&ClientLine, Option<&ClientLine>)> = BTreeMap::new();
    for line in &view.history.client {
        let (_, told) = firsts.entry(&line.key).or_insert((line, None));
        if matches!(line.said, Said::Told { .. }) {
            told.get_or_insert(line);
        }
    }
    finding.examined = firsts.len();
    for (key, (asked, told)) in firsts {
        match told {
            None => finding.complain(key, "was never acknowledged", Proof::by(asked)),
            Some(told) if told.at - asked.at > HEARD_WITHIN => {
                let proof = Proof::by(asked).and(told);
                finding.complain(key, "had to wait too long", proof);
            }
            Some(_) => {}
        }
    }
    finding
}

/// Nothing that is acknowledged is lost.
pub(super) fn stored_as_told(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("what is acknowledged is stored, under the id that was told");
    let rows = view.history.executions.iter();
    let stored: BTreeMap<Place, &ExecutionRow> = rows.map(|row| (row.execution, row)).collect();
    for line in &view.history.client {
        let Said::Told { execution, .. } = &line.said else {
            continue;
        };
        finding.examined += 1;
        match stored.get(execution) {
            None => finding.complain(execution, "is lost", Proof::by(line)),
            Some(row) if row.key != line.key => {
                finding.complain(execution, "is another's", Proof::by(line).and(row));
            }
            Some(_) => {}
        }
    }
    finding
}

/// However often and with whatever answer a key was handed in.
pub(super) fn one_key_one_execution(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("a key gives one execution");
    let mut places: BTreeMap<&str, BTreeSet<Place>> = BTreeMap::new();
    for line in &view.history.client {
        let told = places.entry(&line.key).or_default();
        if let Said::Told { execution, .. } = &line.said {
            told.insert(*execution);
        }
    }
    finding.examined = places.len();
    for row in &view.history.executions {
        if let Some(there) = places.get_mut(row.key.as_str()) {
            there.insert(row.execution);
        }
    }
    for (key, there) in places {
        if there.len() > 1 {
            finding.complain(key, "names several executions", Proof::by(&there));
        }
    }
    finding
}

/// What is stored was handed in by somebody.
pub(super) fn nothing_unmeant(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("nothing is stored that no client meant");
    let lines = view.history.client.iter();
    let meant: BTreeSet<&str> = lines
        .filter(|line| line.said == Said::Asked)
        .map(|line| line.key.as_str())
        .collect();
    for row in &view.history.executions {
        finding.examined += 1;
        if !meant.contains(row.key.as_str()) {
            finding.complain(row.execution, "nobody handed it in", Proof::by(row));
        }
    }
    finding
}
