//! A history put in order: what belongs to one execution stands together.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Micros;
use crate::history::{CallLine, Fault, FaultKind, History, How, OutcomeRow, Step};
use crate::place::Place;

/// How long a process that was paused may take to see what it has missed.
const WAKING_UP: Micros = 1_000_000;

/// A history in order.
pub(super) struct View<'a> {
    pub(super) history: &'a History,
    /// By execution, in order of their begins.
    pub(super) calls: BTreeMap<Place, Vec<Call<'a>>>,
    /// By execution, in order of their fences.
    pub(super) outcomes: BTreeMap<Place, Vec<&'a OutcomeRow>>,
}

/// One call of a handler.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) begin: &'a CallLine,
    /// None: its process died, or the log has lost it.
    pub(super) end: Option<&'a CallLine>,
    /// When it was over for certain: at its end, or at its process' death.
    pub(super) until: Micros,
}

impl<'a> View<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let mut outcomes: BTreeMap<Place, Vec<&OutcomeRow>> = BTreeMap::new();
        for row in &history.outcomes {
            outcomes.entry(row.execution).or_default().push(row);
        }
        for rows in outcomes.values_mut() {
            rows.sort_by_key(|row| row.fence);
        }
        Self {
            history,
            calls: calls_of(history),
            outcomes,
        }
    }

    /// The outcomes of an execution, in order of their fences.
    pub(super) fn outcomes_of(&self, execution: Place) -> &[&'a OutcomeRow] {
        self.outcomes.get(&execution).map_or(&[], Vec::as_slice)
    }

    /// The calls of an execution, in order of their begins.
    pub(super) fn calls_of(&self, execution: Place) -> &[Call<'a>] {
        self.calls.get(&execution).map_or(&[], Vec::as_slice)
    }

    /// Whether a process was paused for all of this time, but for the moment in which it wakes up: so it
    /// could not know what others did.
    pub(super) fn was_paused(&self, pid: u32, from: Micros, to: Micros) -> bool {
        let mut pauses = self.history.faults.iter();
        pauses.any(|fault| {
            let is_its_pause = fault.kind == FaultKind::Pause && fault.pid == Some(pid);
            is_its_pause && fault.begin <= from && to <= fault.end + WAKING_UP
        })
    }
}

impl Call<'_> {
    /// How its handler ended, if it did.
    pub(super) fn how(&self) -> Option<How> {
        match self.end?.step {
            Step::End { how } => Some(how),
            Step::Begin => None,
        }
    }
}

fn calls_of(history: &History) -> BTreeMap<Place, Vec<Call<'_>>> {
    let mut calls: BTreeMap<Place, Vec<Call<'_>>> = BTreeMap::new();
    let mut open: HashMap<(Place, u64, u32, Micros), usize> = HashMap::new();
    for line in &history.calls {
        let which = (line.execution, line.fence, line.pid, line.incarnation);
        let its_calls = calls.entry(line.execution).or_default();
        match line.step {
            Step::Begin => {
                open.insert(which, its_calls.len());
                its_calls.push(Call {
                    begin: line,
                    end: None,
                    until: Micros::MAX,
                });
            }
            // An end without a begin is nobody's.
            Step::End { .. } => {
                if let Some(place) = open.remove(&which) {
                    (its_calls[place].end, its_calls[place].until) = (Some(line), line.at);
                }
            }
        }
    }
    for its_calls in calls.values_mut() {
        for call in its_calls.iter_mut().filter(|call| call.end.is_none()) {
            call.until = death_of(call.begin, &history.faults).unwrap_or(Micros::MAX);
        }
        its_calls.sort_by_key(|call| call.begin.at);
    }
    calls
}

/// When the process of a call was dead, if it died.
fn death_of(call: &CallLine, faults: &[Fault]) -> Option<Micros> {
    let deadly = |fault: &&Fault| {
        matches!(
            fault.kind,
            FaultKind::Kill | FaultKind::Terminate | FaultKind::Exit
        )
    };
    let its_death = |fault: &&Fault| fault.pid == Some(call.pid) && fault.end >= call.at;
    let deaths = faults.iter().filter(deadly).filter(its_death);
    deaths.map(|fault| fault.end).min()
}
