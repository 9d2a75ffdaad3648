//! Nothing goes wrong without a cause.

use super::view::View;
use super::{Finding, Proof};
use crate::clock::Micros;
use crate::history::{Ended, Fault, FaultKind, OutcomeRow};

/// How long connections stay silent that a fault has silenced: until their ends notice.
const NOTICED_WITHIN: Micros = 20_000_000;

/// An attempt is given up for lost only if its worker was hit, or could not be heard.
pub(super) fn losses(view: &View<'_>) -> Finding {
    let mut finding = Finding::of("attempts are lost only to faults");
    let lease = view.history.setting.worker_lease_us;
    for outcome in &view.history.outcomes {
        if outcome.result != Ended::Lost {
            continue;
        }
        finding.examined += 1;
        let mut faults = view.history.faults.iter();
        match faults.any(|fault| explains(fault, outcome, lease)) {
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

fn explains(fault: &Fault, loss: &OutcomeRow, lease: Micros) -> bool {
    let lasts = match fault.kind {
        // It holds nothing any more once it is up again; what it held is missed a lease later at most.
        FaultKind::Kill | FaultKind::Pause | FaultKind::Terminate | FaultKind::Exit
            if fault.target == loss.worker =>
        {
            fault.up.unwrap_or(fault.end) + lease
        }
        FaultKind::Delay
        | FaultKind::Stall
        | FaultKind::Blackhole
        | FaultKind::HalfOpen
        | FaultKind::Reset
            if fault.target.starts_with("to ") =>
        {
            fault.end + NOTICED_WITHIN
        }
        _ => return false,
    };
    fault.begin <= loss.at && loss.claimed_at <= lasts
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
