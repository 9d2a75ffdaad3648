//! How long it took until things went on after a fault.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Micros;
use crate::history::{CallLine, Fault, FaultKind, History, Said, Step};
use crate::place::Place;

/// Durations of one kind, by what they are of.
pub(crate) type Recoveries = BTreeMap<&'static str, Vec<Micros>>;

/// Whom a fault hits, as far as it matters here.
const KILLED_SCHEDULER: &str = "a scheduler's kill, until the slowest submission meanwhile";

/// All durations that the logs tell.
pub(crate) fn recoveries(history: &History) -> Recoveries {
    let mut all = Recoveries::new();
    all.insert("submission to acknowledgement", acknowledgements(history));
    all.insert(
        "a worker's death, until what it ran is called again",
        called_again(history),
    );
    for fault in &history.faults {
        let name = match fault.kind {
            FaultKind::Restart => "a database's restart, until the next acknowledgement",
            FaultKind::Crash => "a database's crash, until the next acknowledgement",
            FaultKind::Kill if fault.target.starts_with("scheduler") => KILLED_SCHEDULER,
            FaultKind::Kill if fault.target.starts_with("api-gateway") => {
                "a gateway's kill, until it is up again"
            }
            _ => continue,
        };
        let took = match fault.kind {
            FaultKind::Kill if name == KILLED_SCHEDULER => slowest_after(history, fault),
            FaultKind::Kill => fault.up.map(|up| up - fault.begin),
            _ => next_told(history, fault),
        };
        all.entry(name).or_default().extend(took);
    }
    all.retain(|_, durations| !durations.is_empty());
    all
}

/// From the first call of each piece to its first acknowledgement.
fn spans(history: &History) -> Vec<(Micros, Micros)> {
    let mut asked: HashMap<&str, Micros> = HashMap::new();
    let mut told: HashMap<&str, Micros> = HashMap::new();
    for line in &history.client {
        match line.said {
            Said::Asked => drop(asked.entry(&line.key).or_insert(line.at)),
            Said::Told { .. } => drop(told.entry(&line.key).or_insert(line.at)),
            Said::Failed { .. } => {}
        }
    }
    let both = told
        .iter()
        .filter_map(|(key, told)| Some((*asked.get(key)?, *told)));
    both.collect()
}

fn acknowledgements(history: &History) -> Vec<Micros> {
    spans(history)
        .into_iter()
        .map(|(asked, told)| told - asked)
        .collect()
}

/// Of what was handed in at a kill or in the ten seconds after.
fn slowest_after(history: &History, fault: &Fault) -> Option<Micros> {
    let during = fault.begin..fault.begin + 10_000_000;
    let spans = spans(history).into_iter();
    let hit = spans.filter(|(asked, _)| during.contains(asked));
    hit.map(|(asked, told)| told - asked).max()
}

fn next_told(history: &History, fault: &Fault) -> Option<Micros> {
    let told = history.client.iter();
    let told = told.filter(|line| matches!(line.said, Said::Told { .. }) && line.at > fault.end);
    told.map(|line| line.at - fault.begin).min()
}

/// Of each call that its process' death broke off.
fn called_again(history: &History) -> Vec<Micros> {
    let mut open: HashMap<(Place, u64), &CallLine> = HashMap::new();
    let mut begins: HashMap<Place, Vec<Micros>> = HashMap::new();
    for line in &history.calls {
        match line.step {
            Step::Begin => {
                open.insert((line.execution, line.fence), line);
                begins.entry(line.execution).or_default().push(line.at);
            }
            Step::End { .. } => drop(open.remove(&(line.execution, line.fence))),
        }
    }
    let took = open.values().filter_map(|call| {
        let mut deaths = history.faults.iter();
        let death = deaths.find(|it| it.kind == FaultKind::Kill && it.pid == Some(call.pid))?;
        let again = begins.get(&call.execution)?.iter();
        again
            .filter(|at| **at > death.begin)
            .map(|at| at - death.begin)
            .min()
    });
    took.collect()
}
