//! `tracing` spans as OpenTelemetry spans, so that a handler's own spans are children of the
//! attempt it runs in.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::registry::LookupSpan;

use crate::span::SpanSink;

/// Crates whose spans are about the transport of the export itself, or of no use to readers.
const MUTED_CRATES: [&str; 8] = [
    "h2",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "reqwest",
    "rustls",
    "sqlx",
];

/// The target of `tracing` spans that only give their fields to the log lines inside them, and
/// are no spans of a trace.
pub const LOG_FIELDS: &str = "log_fields";

/// A layer that sends the `tracing` spans of kept traces to `sink`: those from INFO upwards inside
/// a [`TraceContext::scope`](crate::TraceContext::scope) that is sampled. Spans outside of any
/// trace are left out: nobody decided to keep them.
pub(crate) fn layer<S>(sink: SpanSink) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::parent_based(Sampler::AlwaysOff))
        .with_span_processor(ToSink(sink))
        // The exporter states the resource.
        .with_resource(Resource::builder_empty().build())
        .build();
    let filter = FilterFn::new(is_of_use).with_max_level_hint(LevelFilter::INFO);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("watchwork"))
        .with_filter(filter)
}

fn is_of_use(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let of_crate = target.split_once("::").map_or(target, |(name, _)| name);
    *metadata.level() <= Level::INFO
        && target != LOG_FIELDS
        && !of_crate.starts_with("opentelemetry")
        && !MUTED_CRATES.contains(&of_crate)
}

/// Hands spans over as they end; the exporter does the rest.
struct ToSink(SpanSink);

impl SpanProcessor for ToSink {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        // Recorded isn't sampled: the decision is ours to keep.
        if span.span_context.is_sampled() {
            self.0.emit_traced(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl std::fmt::Debug for ToSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ToSink")
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::SpanId;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::process::ServiceName;
    use crate::span::{FinishedSpan, SpanCounts};
    use crate::trace_context::TraceContext;

    /// Runs `piece` under this layer; gives what was exported.
    fn exported(piece: impl FnOnce()) -> Vec<SpanData> {
        let counts = SpanCounts::new(&prometheus::Registry::new()).unwrap();
        let (sink, mut queue) = SpanSink::new(ServiceName::Worker, 16, counts);
        let subscriber = tracing_subscriber::registry().with(layer(sink));
        tracing::subscriber::with_default(subscriber, piece);
        std::iter::from_fn(|| queue.try_recv().ok())
            .map(|span| match span {
                FinishedSpan::Traced(span) => span,
                FinishedSpan::Record(..) => panic!("only tracing spans were made"),
            })
            .collect()
    }

    fn context(sampled: bool) -> TraceContext {
        TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            sampled,
        }
    }

    #[test]
    fn spans_in_a_sampled_scope_are_its_descendants() {
        let spans = exported(|| {
            context(true).enter(|| {
                tracing::info_span!("outer").in_scope(|| {
                    tracing::info_span!("inner").in_scope(|| {});
                });
            });
        });
        let [inner, outer] = spans.as_slice() else {
            panic!("two spans, not {spans:?}")
        };
        assert_eq!(outer.span_context.trace_id().to_bytes(), [1; 16]);
        assert_eq!(outer.parent_span_id, SpanId::from_bytes([2; 8]));
        assert_eq!(inner.parent_span_id, outer.span_context.span_id());
    }

    #[test]
    fn spans_outside_of_kept_traces_are_left_out() {
        let spans = exported(|| {
            context(false).enter(|| tracing::info_span!("not kept").in_scope(|| {}));
            tracing::info_span!("of no trace").in_scope(|| {});
        });
        assert!(spans.is_empty(), "{spans:?}");
    }

    #[test]
    fn details_the_transport_and_fields_for_the_log_are_left_out() {
        let spans = exported(|| {
            context(true).enter(|| {
                tracing::debug_span!("detail").in_scope(|| {});
                tracing::info_span!(target: "hyper::client", "request").in_scope(|| {});
                tracing::info_span!(target: LOG_FIELDS, "task").in_scope(|| {});
                tracing::info_span!(target: "towers::crate", "of a user").in_scope(|| {});
            });
        });
        let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["of a user"]);
    }
}
