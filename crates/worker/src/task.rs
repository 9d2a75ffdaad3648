use std::collections::HashMap;
use std::time::{Duration, Instant};

use domain::{ExecutionId, lifecycle_span_id, limits};
use proto::v1;
use service::TraceContext;

use crate::account::Saved;

/// What is known of one attempt when it arrives, apart from its payload.
pub(crate) struct Task {
    pub(crate) execution_id: ExecutionId,
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) tenant: String,
    pub(crate) job_type: String,
    pub(crate) queue: String,
    pub(crate) content_type: String,
    pub(crate) correlation_id: String,
    /// As submitted.
    pub(crate) headers: HashMap<String, String>,
    /// The span that handed it out.
    pub(crate) parent: Option<TraceContext>,
    pub(crate) tracestate: String,
    /// How long it may run from its begin.
    pub(crate) timeout: Duration,
    /// Perhaps it takes workers down.
    pub(crate) suspect: bool,
    /// What an earlier attempt saved last.
    pub(crate) saved: Option<Saved>,
    /// When it came.
    pub(crate) arrived: Instant,
}

impl Task {
    /// Takes a task off the wire, its payload left there; `None` if its id is none.
    pub(crate) fn take(wire: &mut v1::Task, arrived: Instant) -> Option<Self> {
        Some(Self {
            execution_id: ExecutionId::from_slice(&wire.execution_id)?,
            fence: wire.fence,
            attempt: wire.attempt,
            tenant: std::mem::take(&mut wire.tenant),
            job_type: std::mem::take(&mut wire.job_type),
            queue: std::mem::take(&mut wire.queue),
            content_type: std::mem::take(&mut wire.content_type),
            correlation_id: std::mem::take(&mut wire.correlation_id),
            headers: std::mem::take(&mut wire.headers),
            parent: TraceContext::from_wire(&wire.trace_context),
            tracestate: std::mem::take(&mut wire.tracestate),
            timeout: Duration::from_micros(wire.timeout_us).min(limits::MAX_TIMEOUT),
            suspect: wire.suspect,
            saved: wire.saved.take().map(Saved::from),
            arrived,
        })
    }

    /// Its own span, `task_execution`: known before it begins, so that what it calls can be
    /// children of it.
    pub(crate) fn span(&self) -> Option<TraceContext> {
        let parent = self.parent?;
        let span_id = lifecycle_span_id(self.execution_id, self.fence, "task_execution");
        Some(TraceContext { span_id, ..parent })
    }

    /// Whether spans of its trace are exported as they end.
    pub(crate) fn is_sampled(&self) -> bool {
        self.parent.is_some_and(|parent| parent.sampled)
    }
}
