//! Spans made by hand, with chosen ids and times, and the queue that takes finished spans.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::process::ServiceName;
use crate::trace_context::TraceContext;

/// A finished span. Only spans of kept traces are made into one: whoever emits it has decided.
#[derive(Debug, Clone)]
pub struct SpanRecord {
    /// Name of the operation.
    pub name: &'static str,
    /// Its role between processes.
    pub kind: SpanKind,
    /// The trace it belongs to.
    pub trace_id: [u8; 16],
    /// Its own id. The same span emitted twice has the same id, and is one span to its readers.
    pub span_id: [u8; 8],
    /// The span it is a part of; `None` for a root.
    pub parent_span_id: Option<[u8; 8]>,
    /// Whether another process made the parent.
    pub parent_is_remote: bool,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Facts about it.
    pub attributes: Vec<KeyValue>,
    /// Other spans that it has to do with.
    pub links: Vec<TraceContext>,
    /// What went wrong: the status is then an error. `None` leaves the status unset.
    pub error: Option<String>,
    /// `tracestate` of its trace; an illegal one is left out.
    pub tracestate: String,
}

/// Where finished spans go: the queue of the exporter.
#[derive(Clone)]
pub struct SpanSink {
    queue: Option<Arc<Queue>>,
}

/// The sending side of the queue.
struct Queue {
    service: ServiceName,
    sender: mpsc::Sender<FinishedSpan>,
    counts: SpanCounts,
}

/// What waits in the queue.
pub(crate) enum FinishedSpan {
    /// Made by hand, in the name of a service.
    Record(ServiceName, SpanRecord),
    /// A `tracing` span, of this process.
    Traced(SpanData),
}

/// The exporter's metrics.
#[derive(Clone)]
pub(crate) struct SpanCounts {
    pub(crate) exported: IntCounter,
    pub(crate) queued: IntGauge,
    dropped: IntCounterVec,
}

/// Why a span was lost.
#[derive(Clone, Copy)]
pub(crate) enum DropReason {
    QueueFull,
    ExportFailed,
    Shutdown,
}

impl SpanSink {
    /// A sink that keeps nothing.
    pub fn disabled() -> Self {
        Self { queue: None }
    }

    /// A sink with room for `capacity` spans, and the queue's other end.
    pub(crate) fn new(
        service: ServiceName,
        capacity: usize,
        counts: SpanCounts,
    ) -> (Self, mpsc::Receiver<FinishedSpan>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (
            Self {
                queue: Some(Arc::new(Queue {
                    service,
                    sender,
                    counts,
                })),
            },
            receiver,
        )
    }

    /// Whether spans go anywhere; callers may save the work of making them.
    pub fn is_enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands over a finished span of this process. Never blocks: with the queue full, or after
    /// the shutdown, the span is dropped and counted.
    pub fn emit(&self, span: SpanRecord) {
        if let Some(queue) = &self.queue {
            queue.push(FinishedSpan::Record(queue.service, span));
        }
    }

    /// [`SpanSink::emit`] for a span rebuilt in the name of another service, which made it but
    /// couldn't know yet whether its trace is kept.
    pub fn emit_for(&self, service: ServiceName, span: SpanRecord) {
        if let Some(queue) = &self.queue {
            queue.push(FinishedSpan::Record(service, span));
        }
    }

    /// Hands over a finished `tracing` span of this process.
    pub(crate) fn emit_traced(&self, span: SpanData) {
        if let Some(queue) = &self.queue {
            queue.push(FinishedSpan::Traced(span));
        }
    }
}

impl Queue {
    fn push(&self, span: FinishedSpan) {
        // Counted before it is sent, so that the exporter never takes out more than is in.
        self.counts.queued.inc();
        let Err(refused) = self.sender.try_send(span) else {
            return;
        };
        self.counts.queued.dec();
        self.counts.drop_spans(
            1,
            match refused {
                TrySendError::Full(_) => DropReason::QueueFull,
                TrySendError::Closed(_) => DropReason::Shutdown,
            },
        );
    }
}

impl SpanCounts {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let exported = IntCounter::new(
            "trace_spans_exported_total",
            "Spans that the trace store took.",
        )?;
        let queued = IntGauge::new(
            "trace_export_queue_depth",
            "Finished spans that wait for export.",
        )?;
        let opts = Opts::new(
            "trace_spans_dropped_total",
            "Finished spans that were lost.",
        );
        let dropped = IntCounterVec::new(opts, &["reason"])?;
        registry.register(Box::new(exported.clone()))?;
        registry.register(Box::new(queued.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        let counts = Self {
            exported,
            queued,
            dropped,
        };
        for reason in [
            DropReason::QueueFull,
            DropReason::ExportFailed,
            DropReason::Shutdown,
        ] {
            counts.drop_spans(0, reason);
        }
        Ok(counts)
    }

    pub(crate) fn drop_spans(&self, spans: usize, reason: DropReason) {
        self.dropped
            .with_label_values(&[reason.label()])
            .inc_by(spans as u64);
    }
}

impl DropReason {
    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ExportFailed => "export_failed",
            Self::Shutdown => "shutdown",
        }
    }
}

impl SpanRecord {
    /// The form that exporters take. The context is marked as sampled: only spans of kept traces
    /// come here.
    pub(crate) fn into_span_data(self, scope: InstrumentationScope) -> SpanData {
        SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(self.trace_id),
                SpanId::from_bytes(self.span_id),
                TraceFlags::SAMPLED,
                false,
                self.tracestate.parse().unwrap_or(TraceState::NONE),
            ),
            parent_span_id: self
                .parent_span_id
                .map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: self.parent_is_remote,
            span_kind: self.kind,
            name: self.name.into(),
            start_time: self.start,
            end_time: self.end,
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: span_links(&self.links),
            status: self.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope,
        }
    }
}

fn span_links(contexts: &[TraceContext]) -> SpanLinks {
    let mut links = SpanLinks::default();
    links.links = contexts
        .iter()
        .map(|linked| Link::with_context(linked.otel()))
        .collect();
    links
}
