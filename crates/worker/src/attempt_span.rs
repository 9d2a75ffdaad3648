use std::time::SystemTime;

use service::{KeyValue, SpanKind, SpanRecord, SpanSink};

use crate::outcome::{Outcome, Times};
use crate::task::Task;

/// Makes the spans of attempts.
pub(crate) struct AttemptSpans {
    pub(crate) sink: SpanSink,
    pub(crate) worker_id: String,
    pub(crate) pool: String,
}

impl AttemptSpans {
    /// Emits the attempt's `task_execution` span if its trace is known to be kept; if it is not,
    /// the scheduler that learns the outcome decides, and makes the span with the same id.
    pub(crate) fn emit(&self, task: &Task, outcome: &Outcome, times: Times) {
        let (Some(parent), Some(span)) = (task.parent, task.span()) else {
            return;
        };
        if !parent.sampled || !self.sink.is_enabled() {
            return;
        }
        let end = SystemTime::now();
        self.sink.emit(SpanRecord {
            name: "task_execution",
            kind: SpanKind::Consumer,
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent_span_id: Some(parent.span_id),
            parent_is_remote: true,
            start: end - times.ran(),
            end,
            attributes: self.attributes(task, outcome, times),
            // By the conventions a consumer links to what created its message, parent or not.
            links: vec![parent],
            error: outcome.error().map(|error| error.message),
            tracestate: task.tracestate.clone(),
        });
    }

    fn attributes(&self, task: &Task, outcome: &Outcome, times: Times) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("worker_id", self.worker_id.clone()),
            KeyValue::new("attempt", i64::from(task.attempt)),
            KeyValue::new("task.status", outcome.status().label()),
            KeyValue::new("task.type", task.job_type.clone()),
            KeyValue::new("duration_ms", times.ran().as_secs_f64() * 1_000.0),
            KeyValue::new("operation", "task:execute"),
            KeyValue::new("messaging.system", "watchwork"),
            KeyValue::new("messaging.destination.name", task.queue.clone()),
            KeyValue::new("messaging.operation.name", "task_execution"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.message.id", task.execution_id.to_string()),
            KeyValue::new(
                "messaging.message.conversation_id",
                task.correlation_id.clone(),
            ),
            KeyValue::new("messaging.client.id", self.worker_id.clone()),
            KeyValue::new("messaging.consumer.group.name", self.pool.clone()),
        ];
        if let Some(error) = outcome.error() {
            attributes.push(KeyValue::new("error.type", error.class.into_owned()));
        }
        attributes
    }
}
