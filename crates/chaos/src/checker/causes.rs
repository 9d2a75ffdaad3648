//! Nothing goes wrong without a cause.

use super::view::View;
use super::{Finding, Proof};
use crate::clock::Micros;
use crate::history::{Ended, Fault, FaultKind};

/// How long connections stay silent that a fault has silenced: until their ends notice.
const NOTICED_WITHIN: Micros = 20_000_000;

/// An attempt is given up for lost only if its worker was hit or could not be heard, or if it never came there:
/// who gave it out was hit before it could say so.
pub(super) fn losses(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("attempts are lost only to faults");
    let lease = view.history.setting.worker_lease_us;
    for outcome in &view.history.outcomes {
        if outcome.result != Ended::Lost {
            continue;
        }
        finding.examined += 1;
        let mut calls = view.calls_of(outcome.execution).iter();
        let arrived = calls.any(|call| call.begin.fence == outcome.fence);
        let mut faults = view.history.faults.iter();
        let explained = faults.any(|fault| {
            let lasts = lasts_for_worker(fault, &outcome.worker, lease);
            let lasts = lasts.or_else(|| lasts_for_giver(fault).filter(|_| !arrived));
            lasts.is_some_and(|until| fault.begin <= outcome.at && outcome.claimed_at <= until)
        });
        match explained {
            true => finding.explained += 1,
            false => finding.complain(
                outcome.execution,
                format!("nothing had happened to {}", outcome.worker),
                Proof::by(outcome),
            ),
        }
    }
    finding
}

/// Until when what a worker is given may be lost by a fault.
fn lasts_for_worker(fault: &Fault, worker: &str, lease: Micros) -> Option<Micros> {
    match fault.kind {
        // It holds nothing any more once it is up again; what it held is missed a lease later at most.
        FaultKind::Kill | FaultKind::Pause | FaultKind::Terminate | FaultKind::Exit => {
            (fault.target == worker).then(|| fault.up.unwrap_or(fault.end) + lease)
        }
        FaultKind::Delay
        | FaultKind::Stall
        | FaultKind::Blackhole
        | FaultKind::HalfOpen
        | FaultKind::Reset => fault
            .target
            .starts_with("to ")
            .then_some(fault.end + NOTICED_WITHIN),
        FaultKind::Start | FaultKind::Restart | FaultKind::Crash => None,
    }
}

/// Until when a scheduler may give something out, and not be able to say so to whom.
fn lasts_for_giver(fault: &Fault) -> Option<Micros> {
    let is_giver = fault.target.starts_with("scheduler") || fault.target == "database";
    let is_fault = fault.kind != FaultKind::Start;
    (is_giver && is_fault).then_some(fault.up.unwrap_or(fault.end) + NOTICED_WITHIN)
}

/// Processes live through the faults of others.
pub(super) fn ends_of_processes(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("processes end only when they are told to");
    for fault in &view.history.faults {
        match fault.kind {
            FaultKind::Start => finding.examined += 1,
            FaultKind::Exit => {
                finding.complain(&fault.target, "ended by itself", Proof::by(fault));
            }
            _ => {}
        }
    }
    finding
}
