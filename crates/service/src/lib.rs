//! What every process of Watchwork needs around its work: arguments, log, traces, metrics, the
//! admin port, readiness, shutdown, and what gRPC servers and channels share. It knows nothing
//! about jobs.
//!
//! A binary parses its arguments, with [`ServiceArgs`] flattened into them, and hands its own
//! function to [`run`]; that function receives a [`Process`].

mod admin;
mod args;
mod connection;
mod drain;
mod grpc;
mod instance;
mod log;
mod log_fields;
mod log_line;
mod metrics;
mod otlp;
mod process;
mod process_metrics;
mod readiness;
mod recurring;
mod sampler;
mod secret;
mod signals;
mod span;
mod span_export;
mod trace_context;
mod user_spans;

pub use args::{LogFormat, OtlpProtocol, ServiceArgs};
pub use drain::serve_with_drain;
pub use grpc::{bearer, channel, health, server};
pub use metrics::{LabelGuard, OTHER_LABEL, seconds_buckets};
pub use opentelemetry::{KeyValue, trace::SpanKind};
pub use process::{Process, ServiceName, run};
pub use readiness::Readiness;
pub use recurring::Recurring;
pub use sampler::HeadSampler;
pub use secret::Secret;
pub use span::{SpanRecord, SpanSink};
pub use trace_context::{TraceContext, new_span_id, new_trace_id, parse_tracestate};
pub use user_spans::LOG_FIELDS;
