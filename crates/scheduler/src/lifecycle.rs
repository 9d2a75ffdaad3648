//! The scheduler's spans: made from what a committed batch says, with ids that anybody can compute, so
//! that each exists once whoever tells it.

use std::time::SystemTime;

use domain::{Micros, lifecycle_span_id};
use service::{KeyValue, SpanKind, SpanRecord};

use crate::group::{ClaimedTask, Effects};
use crate::shared::{Known, Shared};

/// Emits the spans of a batch that was planned at the database's time `at` and committed between `begin`
/// and now.
pub(crate) fn tell(shared: &Shared, effects: &Effects, at: Micros, begin: SystemTime) {
    if !shared.spans.is_enabled() {
        return;
    }
    let end = SystemTime::now();
    for (known, arrived) in effects
        .accepted
        .iter()
        .filter(|(known, _)| known.work.is_sampled())
    {
        emit_acceptance(shared, known, (*arrived, begin, end));
    }
    for task in effects
        .claimed
        .iter()
        .filter(|task| task.known.work.is_sampled())
    {
        emit_wait(shared, task, (at, begin));
    }
}

/// Emits the spans of an execution that was put into an inbox between `begin` and now.
pub(crate) fn tell_posted(shared: &Shared, known: &Known, arrived: SystemTime, begin: SystemTime) {
    if shared.spans.is_enabled() && known.work.is_sampled() {
        emit_acceptance(shared, known, (arrived, begin, SystemTime::now()));
    }
}

fn emit_acceptance(
    shared: &Shared,
    known: &Known,
    (arrived, begin, end): (SystemTime, SystemTime, SystemTime),
) {
    let Some(trace) = known.work.head.trace else {
        return;
    };
    let schedule_job = lifecycle_span_id(known.id, 0, "schedule_job");
    let mut gateway_span = [0; 8];
    gateway_span.copy_from_slice(&trace[16..24]);
    let id = known.id.to_string();
    let queue = known.work.queue.name.clone();
    let span = Span {
        shared,
        known,
        trace,
    };
    span.emit(
        "schedule_job",
        (SpanKind::Server, schedule_job, Some(gateway_span)),
        (arrived, end),
        vec![
            KeyValue::new("job_id", id.clone()),
            KeyValue::new("execution_id", id.clone()),
            KeyValue::new("messaging.system", "watchwork"),
        ],
    );
    let enqueue = lifecycle_span_id(known.id, 0, "queue_enqueue");
    span.emit(
        "queue_enqueue",
        (SpanKind::Producer, enqueue, Some(schedule_job)),
        (begin, end),
        vec![
            KeyValue::new("queue", queue.clone()),
            KeyValue::new("partition", i64::from(known.id.lane().0)),
            KeyValue::new("messaging.system", "watchwork"),
            KeyValue::new("messaging.destination.name", queue),
            KeyValue::new("messaging.operation.name", "task:submit"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.message.id", id),
        ],
    );
}

/// The time that it waited in its queue, up to the plan that claimed it; what is claimed as it comes has
/// not waited.
fn emit_wait(shared: &Shared, task: &ClaimedTask, (at, planned): (Micros, SystemTime)) {
    let Some(trace) = task.known.work.head.trace else {
        return;
    };
    let waited = at.since(task.enqueued);
    if waited.is_zero() {
        return;
    }
    let enqueue = lifecycle_span_id(task.known.id, 0, "queue_enqueue");
    let wait = lifecycle_span_id(task.known.id, task.fence, "queue_wait");
    let (start, end) = (planned.checked_sub(waited).unwrap_or(planned), planned);
    let span = Span {
        shared,
        known: &task.known,
        trace,
    };
    span.emit(
        "queue_wait",
        (SpanKind::Internal, wait, Some(enqueue)),
        (start, end),
        vec![
            KeyValue::new("queue", task.known.work.queue.name.clone()),
            KeyValue::new("attempt", i64::from(task.attempt)),
            KeyValue::new("worker_id", task.session.worker_id.to_string()),
        ],
    );
}

struct Span<'a> {
    shared: &'a Shared,
    known: &'a Known,
    trace: [u8; 25],
}

impl Span<'_> {
    fn emit(
        &self,
        name: &'static str,
        (kind, span_id, parent_span_id): (SpanKind, [u8; 8], Option<[u8; 8]>),
        (start, end): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) {
        let mut trace_id = [0; 16];
        trace_id.copy_from_slice(&self.trace[..16]);
        let parent_is_remote = matches!(kind, SpanKind::Server);
        let tracestate = self
            .known
            .work
            .head
            .tracestate
            .as_deref()
            .unwrap_or_default()
            .to_owned();
        self.shared.spans.emit(SpanRecord {
            name,
            kind,
            trace_id,
            span_id,
            parent_span_id,
            parent_is_remote,
            start,
            end,
            attributes,
            links: Vec::new(),
            error: None,
            tracestate,
        });
    }
}
