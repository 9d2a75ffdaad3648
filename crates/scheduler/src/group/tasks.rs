//! What goes out to workers and watchers once a batch is committed.

use std::sync::Arc;

use bytes::Bytes;
use domain::{ExecutionId, ExecutionState, Reason, lifecycle_span_id};
use proto::v1::{
    Cancel, CheckpointAnswer, CheckpointAnswers, Dispatch, Held, SavedCheckpoint, Settlement,
    Settlements, Task, work_response,
};
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::input::{Change, HeldTask, Watched};
use super::plan::{CancelledNow, ClaimedTask, Effects};
use crate::session::Session;

/// Bytes of payload that one message carries, and the last one's: far below what a message may have.
const MESSAGE_PAYLOADS: usize = 4 << 20;

/// Sends each worker its tasks, in as few messages as their payloads allow.
pub(super) fn dispatch(scheduler_id: &str, claimed: &[ClaimedTask]) {
    let tasks = claimed
        .iter()
        .map(|claimed| (&claimed.session, task(scheduler_id, claimed)));
    for (session, tasks) in by_session(tasks) {
        for tasks in portions(tasks) {
            session.send(work_response::Message::Dispatch(Dispatch { tasks }));
        }
    }
}

fn portions(tasks: Vec<Task>) -> Vec<Vec<Task>> {
    let mut portions = vec![Vec::new()];
    let mut bytes = 0;
    for task in tasks {
        if bytes >= MESSAGE_PAYLOADS {
            portions.push(Vec::new());
            bytes = 0;
        }
        bytes += task.payload.len() + task.saved.as_ref().map_or(0, |saved| saved.state.len());
        if let Some(portion) = portions.last_mut() {
            portion.push(task);
        }
    }
    portions
}

/// Tells workers to stop what somebody cancelled.
pub(super) fn stop(cancelled: &[CancelledNow]) {
    for cancelled in cancelled {
        if let CancelledNow::Told { session, id, fence } = cancelled {
            stop_one(session, (*id, *fence));
        }
    }
}

/// Tells a worker to stop an attempt.
pub(super) fn stop_one(session: &Session, (id, fence): HeldTask) {
    let held = vec![held_of((id, fence))];
    session.send(work_response::Message::Cancel(Cancel { held }));
}

/// The right to a task, as it is named to a worker.
pub(super) fn held_of((id, fence): HeldTask) -> Held {
    let execution_id = Bytes::copy_from_slice(id.as_bytes());
    Held {
        execution_id,
        fence,
        lane_epoch: 0,
    }
}

/// Tells each worker what became of its results, all in one message.
pub(super) fn settle(settlements: Vec<(Arc<Session>, Settlement)>) {
    let settlements = settlements
        .iter()
        .map(|(session, settlement)| (session, settlement.clone()));
    for (session, settlements) in by_session(settlements) {
        session.send(work_response::Message::Settlements(Settlements {
            settlements,
        }));
    }
}

/// Tells each worker what became of its checkpoints, all in one message.
pub(super) fn answer(answers: Vec<(Arc<Session>, CheckpointAnswer)>) {
    let answers = answers
        .iter()
        .map(|(session, answer)| (session, answer.clone()));
    for (session, answers) in by_session(answers) {
        let answers = CheckpointAnswers { answers };
        session.send(work_response::Message::CheckpointAnswers(answers));
    }
}

fn by_session<'a, T>(
    items: impl Iterator<Item = (&'a Arc<Session>, T)>,
) -> Vec<(&'a Arc<Session>, Vec<T>)> {
    let mut groups: Vec<(&Arc<Session>, Vec<T>)> = Vec::new();
    for (session, item) in items {
        match groups
            .iter_mut()
            .find(|(known, _)| known.number == session.number)
        {
            Some((_, group)) => group.push(item),
            None => groups.push((session, vec![item])),
        }
    }
    groups
}

fn task(scheduler_id: &str, claimed: &ClaimedTask) -> Task {
    let ClaimedTask {
        known,
        fence,
        attempt,
        timeout,
        suspect,
        ..
    } = claimed;
    let (work, head) = (&known.work, &known.work.head);
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Task {
        execution_id: Bytes::copy_from_slice(known.id.as_bytes()),
        fence: *fence,
        attempt: u32::from(*attempt),
        tenant: work.tenant.to_string(),
        job_type: work.job_type.to_string(),
        queue: work.queue.name.clone(),
        payload: head.payload.clone(),
        content_type: head.content_type.as_deref().unwrap_or_default().to_owned(),
        headers,
        correlation_id: correlation_id(known.id, head.correlation_id.as_deref()),
        trace_context: head
            .trace
            .map_or_else(Bytes::new, |trace| task_context(known.id, trace)),
        tracestate: tracestate(scheduler_id, head.tracestate.as_deref()),
        timeout_us: u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX),
        suspect: *suspect,
        saved: known.saved.as_deref().map(|saved| SavedCheckpoint {
            fence: saved.mark.fence,
            number: saved.mark.number,
            state: saved.state.clone(),
        }),
    }
}

/// The caller's correlation id, else the execution's id.
pub(crate) fn correlation_id(id: ExecutionId, callers: Option<&str>) -> String {
    callers.map_or_else(|| id.to_string(), str::to_owned)
}

/// The context that the attempt is a child of: its trace, and the span that put it into its queue.
fn task_context(id: ExecutionId, mut trace: [u8; 25]) -> Bytes {
    trace[16..24].copy_from_slice(&lifecycle_span_id(id, 0, "queue_enqueue"));
    Bytes::copy_from_slice(&trace)
}

/// The caller's tracestate with this scheduler's member in front, as W3C asks of who changes it; its
/// own earlier one goes, and so does what would make it too long.
fn tracestate(scheduler_id: &str, callers: Option<&str>) -> String {
    let mut state = format!("scheduler={scheduler_id}");
    let others = callers.unwrap_or_default().split(',').map(str::trim);
    for member in others
        .filter(|m| !m.is_empty() && !m.starts_with("scheduler="))
        .take(31)
    {
        if state.len() + 1 + member.len() > 512 {
            break;
        }
        state.push(',');
        state.push_str(member);
    }
    state
}

type Watchers = FxHashMap<ExecutionId, Vec<mpsc::UnboundedSender<Watched>>>;

/// Tells those who watch: how the last attempt ended first, then that the next is claimed.
pub(super) fn notify(watchers: &mut Watchers, effects: &Effects) {
    let Effects {
        claimed,
        ended,
        cancelled,
        revised,
        ..
    } = effects;
    let ends = ended.iter().map(|ended| Change {
        id: ended.known.id,
        state: ended.state,
        reason: ended.decision.reason,
        attempt: ended.attempt,
        fence: ended.fence,
        worker: Arc::clone(&ended.worker),
    });
    let begins = claimed.iter().map(|claimed| Change {
        id: claimed.known.id,
        state: ExecutionState::Running,
        reason: Reason::None,
        attempt: claimed.attempt,
        fence: claimed.fence,
        worker: Arc::clone(&claimed.session.worker_id),
    });
    let over = cancelled.iter().filter_map(|cancelled| match cancelled {
        CancelledNow::Over {
            known,
            attempt,
            fence,
        } => Some(Change {
            id: known.id,
            state: ExecutionState::Cancelled,
            reason: Reason::Cancelled,
            attempt: *attempt,
            // The number of the outcome: nobody claimed it by that.
            fence: if *attempt == 0 { 0 } else { *fence },
            worker: Arc::from(""),
        }),
        CancelledNow::Told { .. } => None,
    });
    let revised = revised.iter().map(|revised| Change {
        id: revised.known.id,
        state: revised.state,
        reason: revised.reason,
        attempt: 0,
        fence: 0,
        worker: Arc::from(""),
    });
    for change in over.chain(ends).chain(begins).chain(revised) {
        let Some(watching) = watchers.get_mut(&change.id) else {
            continue;
        };
        watching.retain(|watcher| watcher.send(Watched::Change(change.clone())).is_ok());
        if watching.is_empty() || change.state.is_final() {
            watchers.remove(&change.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedulers_member_comes_first_and_once_and_the_state_stays_short() {
        assert_eq!(tracestate("s-1", None), "scheduler=s-1");
        assert_eq!(
            tracestate("s-1", Some("a=1, scheduler=s-0,b=2")),
            "scheduler=s-1,a=1,b=2"
        );
        let long = format!("a={},b=2", "x".repeat(600));
        assert!(tracestate("s-1", Some(&long)).len() <= 512);
    }
}
