//! An execution as clients see it, from its owner's memory and its rows.

use domain::lane::Wait;
use domain::{ExecutionId, ExecutionState, Items, Micros, Progress, Reason, RetryPolicy};
use proto::v1::{Attempt, Checkpoint, Execution};
use store::{LastOutcome, StoredAttempt, StoredCheckpoint, StoredExecution};

use crate::group::{InMemory, correlation_id};
use crate::shared::Shared;

/// Where an execution stands.
pub(super) struct Standing {
    pub(super) state: ExecutionState,
    pub(super) reason: i32,
    pub(super) since: Micros,
    pub(super) attempt: u16,
    pub(super) fence: u64,
    pub(super) worker: String,
}

/// What an execution's rows tell of where it stands.
pub(super) struct InRows<'a> {
    pub(super) accepted: Micros,
    pub(super) due: Option<Micros>,
    pub(super) last: Option<LastOutcome>,
    /// Who ran the last attempt.
    pub(super) worker: &'a str,
}

impl<'a> From<&'a StoredExecution> for InRows<'a> {
    fn from(stored: &'a StoredExecution) -> Self {
        let last = stored.attempts.last();
        Self {
            accepted: stored.head.accepted,
            due: stored.head.due,
            last: last.map(LastOutcome::from),
            worker: last.map_or("", |last| &last.worker),
        }
    }
}

impl InRows<'_> {
    /// Where it stands if neither memory nor an outcome knows: beyond the horizon of what is read.
    fn not_begun(&self, now: Micros) -> ExecutionState {
        match self.due.is_some_and(|due| due > now) {
            true => ExecutionState::Scheduled,
            false => ExecutionState::Queued,
        }
    }

    fn stands(&self, state: ExecutionState) -> Standing {
        let last = self.last;
        Standing {
            state,
            reason: last.map_or(0, |last| i32::from(last.reason)),
            since: last.map_or(self.accepted, |last| last.at),
            attempt: last.map_or(0, |last| u16::try_from(last.attempt).unwrap_or(0)),
            // An outcome that is no attempt's has a number of its own, which nobody claimed it by.
            fence: last.map_or(0, |last| if last.attempt == 0 { 0 } else { last.fence }),
            worker: self.worker.to_owned(),
        }
    }
}

/// Memory was asked first, so what the rows know beyond it is newer.
pub(super) fn standing<'a>(
    rows: impl Into<InRows<'a>>,
    memory: &InMemory,
    now: Micros,
) -> Standing {
    let rows = rows.into();
    let last_fence = rows.last.map_or(0, |last| last.fence);
    match memory {
        InMemory::Running {
            fence,
            attempt,
            worker,
            claimed,
            ..
        } if *fence > last_fence => Standing {
            state: ExecutionState::Running,
            reason: 0,
            since: *claimed,
            attempt: *attempt,
            fence: *fence,
            worker: worker.to_string(),
        },
        InMemory::Timed {
            wait: Wait::Scheduled,
        } if rows.last.is_none() => rows.stands(ExecutionState::Scheduled),
        InMemory::Queued { since } if rows.last.is_none_or(|last| last.is_before(*since)) => {
            Standing {
                since: *since,
                ..rows.stands(ExecutionState::Queued)
            }
        }
        _ => rows.stands(
            rows.last
                .map_or_else(|| rows.not_begun(now), |last| last.state),
        ),
    }
}

/// The whole of it.
pub(super) async fn execution(
    id: ExecutionId,
    (stored, saved): (&StoredExecution, Option<&StoredCheckpoint>),
    memory: &InMemory,
    shared: &Shared,
) -> Execution {
    let head = &stored.head;
    let standing = standing(stored, memory, shared.clock.now());
    let catalog = &shared.catalog;
    let queue = catalog.queue(head.queue).await.ok().flatten();
    let job_type = catalog.job_type(head.job_type).await.ok().flatten();
    let policy = catalog.policy(head.retry_policy).await.ok().flatten();
    let last = stored.attempts.last();
    let attempts = attempts(stored, memory);
    let progress = progress((stored, saved), &standing, memory);
    let retrying = standing.state == ExecutionState::Retrying;
    let succeeded = stored
        .attempts
        .iter()
        .rfind(|a| a.state == ExecutionState::Succeeded);
    Execution {
        execution_id: id.to_string(),
        job_type: job_type.map(|name| name.to_string()).unwrap_or_default(),
        queue: queue.map(|queue| queue.name.clone()).unwrap_or_default(),
        priority: head.priority as i32,
        state: standing.state as i32,
        reason: standing.reason,
        fence: attempts.last().map_or(0, |attempt| attempt.fence),
        labels: head.labels.clone().into_iter().collect(),
        correlation_id: correlation_id(id, head.correlation_id.as_deref()),
        submitted_at: Some(timestamp(head.accepted)),
        state_since: Some(timestamp(standing.since)),
        next_attempt_at: last
            .filter(|_| retrying)
            .and_then(|last| last.next_at)
            .map(timestamp),
        attempts,
        output: succeeded
            .and_then(|a| a.output.clone())
            .map(Into::into)
            .unwrap_or_default(),
        output_content_type: succeeded
            .and_then(|a| a.output_type.clone())
            .unwrap_or_default(),
        trace_id: head
            .trace
            .map(|trace| hex::encode(&trace[..16]))
            .unwrap_or_default(),
        trace_kept: head.trace.is_some_and(|trace| trace[24] & 1 == 1),
        max_attempts: policy.map_or(0, |policy| u32::from(policy.max_attempts)),
        max_lost: policy.map_or(0, |policy| u32::from(policy.max_lost)),
        expires_at: expires(id, stored, policy).map(timestamp),
        partition: u32::from(id.lane().0),
        due_at: head.due.map(timestamp),
        cancel_requested: matches!(
            memory,
            InMemory::Running {
                cancelled: true,
                ..
            }
        ),
        progress: progress.map(progress_on_wire),
        checkpoint: saved.map(checkpoint),
    }
}

/// How far it is: one that runs, as its worker says, or as it said when it saved something, if its owner hasn't heard
/// since; another, as its last attempt left it.
fn progress<'a>(
    (stored, saved): (&'a StoredExecution, Option<&'a StoredCheckpoint>),
    standing: &Standing,
    memory: &'a InMemory,
) -> Option<&'a Progress> {
    if standing.state != ExecutionState::Running {
        return stored.attempts.last()?.progress.as_ref();
    }
    let said = match memory {
        InMemory::Running { progress, .. } => progress.as_ref(),
        _ => None,
    };
    let saved = saved.filter(|saved| saved.mark.fence == standing.fence);
    said.or(saved.and_then(|saved| saved.progress.as_ref()))
}

fn checkpoint(stored: &StoredCheckpoint) -> Checkpoint {
    Checkpoint {
        fence: stored.mark.fence,
        number: stored.mark.number,
        size: stored.size,
        saved_at: Some(timestamp(stored.at)),
        progress: stored.progress.as_ref().map(progress_on_wire),
    }
}

fn progress_on_wire(progress: &Progress) -> proto::v1::Progress {
    proto::v1::Progress {
        done: progress.done,
        total: progress.total,
        note: progress.note.to_string(),
    }
}

fn items_on_wire(items: Items) -> Option<proto::v1::Items> {
    let Items {
        success,
        failed,
        skipped,
    } = items;
    (!items.is_none()).then_some(proto::v1::Items {
        success,
        failed,
        skipped,
    })
}

/// When its total time is over, counted anew from when somebody had it run again.
fn expires(
    id: ExecutionId,
    stored: &StoredExecution,
    policy: Option<RetryPolicy>,
) -> Option<Micros> {
    let reopened = |a: &&StoredAttempt| a.reason == Reason::Redriven as i16;
    let reopened = stored.attempts.iter().rfind(reopened).map(|a| a.at);
    Some(reopened.unwrap_or(id.home_time()).plus(policy?.total?))
}

fn attempts(stored: &StoredExecution, memory: &InMemory) -> Vec<Attempt> {
    // An outcome without a worker is no attempt: somebody cancelled what nobody ran.
    let by_workers = stored.attempts.iter().filter(|a| !a.worker.is_empty());
    let mut attempts: Vec<Attempt> = by_workers.map(ended).collect();
    let last_fence = stored.attempts.last().map_or(0, |last| last.fence);
    if let InMemory::Running {
        fence,
        attempt,
        worker,
        claimed,
        queued_us,
        ..
    } = memory
        && *fence > last_fence
    {
        attempts.push(Attempt {
            number: u32::from(*attempt),
            fence: *fence,
            worker_id: worker.to_string(),
            dispatched_at: Some(timestamp(*claimed)),
            queued: Some(duration(*queued_us)),
            ..Attempt::default()
        });
    }
    attempts
}

fn ended(attempt: &StoredAttempt) -> Attempt {
    let [queued, dispatching, running, reporting] = attempt.phases_us.map(|us| Some(duration(us)));
    Attempt {
        number: u32::try_from(attempt.attempt).unwrap_or(0),
        fence: attempt.fence,
        worker_id: attempt.worker.clone(),
        result: i32::from(attempt.result),
        reason: i32::from(attempt.reason),
        error_class: attempt.error_class.clone().unwrap_or_default(),
        error_message: attempt.error_message.clone().unwrap_or_default(),
        dispatched_at: Some(timestamp(attempt.claimed)),
        queued,
        dispatching,
        running,
        reporting,
        recorded_at: Some(timestamp(attempt.at)),
        next_attempt_at: attempt.next_at.map(timestamp),
        items: items_on_wire(attempt.items),
        progress: attempt.progress.as_ref().map(progress_on_wire),
    }
}

pub(super) fn timestamp(at: Micros) -> prost_types::Timestamp {
    let seconds = at.0.div_euclid(1_000_000);
    let nanos = i32::try_from(at.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos }
}

fn duration(us: i64) -> prost_types::Duration {
    let nanos = i32::try_from(us % 1_000_000 * 1_000).unwrap_or(0);
    prost_types::Duration {
        seconds: us / 1_000_000,
        nanos,
    }
}
