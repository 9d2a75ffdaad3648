//! The JSON of Jaeger's query API.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;

pub(crate) type TraceId = [u8; 16];
pub(crate) type SpanId = [u8; 8];

/// A span as it is stored and answered; `process` is written beside the spans of its trace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Span {
    #[serde(rename = "traceID", serialize_with = "as_hex")]
    pub(crate) trace_id: TraceId,
    #[serde(rename = "spanID", serialize_with = "as_hex")]
    pub(crate) span_id: SpanId,
    pub(crate) flags: u32,
    pub(crate) operation_name: String,
    pub(crate) references: Vec<Reference>,
    /// µs since 1970.
    pub(crate) start_time: u64,
    /// µs.
    pub(crate) duration: u64,
    pub(crate) tags: Vec<Tag>,
    pub(crate) logs: Vec<Log>,
    #[serde(skip)]
    pub(crate) process: Arc<Process>,
}

/// Another span that a span has to do with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reference {
    pub(crate) ref_type: ReferenceType,
    #[serde(rename = "traceID", serialize_with = "as_hex")]
    pub(crate) trace_id: TraceId,
    #[serde(rename = "spanID", serialize_with = "as_hex")]
    pub(crate) span_id: SpanId,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ReferenceType {
    /// The parent.
    ChildOf,
    /// A link.
    FollowsFrom,
}

/// A fact; `kind` is the type of `value`.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Tag {
    pub(crate) key: String,
    #[serde(rename = "type")]
    pub(crate) kind: TagType,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TagType {
    String,
    Bool,
    Int64,
    Float64,
    Binary,
}

/// Something that happened within a span.
#[derive(Debug, Serialize)]
pub(crate) struct Log {
    /// µs since 1970.
    pub(crate) timestamp: u64,
    pub(crate) fields: Vec<Tag>,
}

/// Who made a span.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) service_name: String,
    pub(crate) tags: Vec<Tag>,
}

/// All known spans of a trace, by their start.
#[derive(Serialize)]
pub(crate) struct Trace {
    #[serde(rename = "traceID", serialize_with = "as_hex")]
    trace_id: TraceId,
    spans: Vec<TraceSpan>,
    processes: BTreeMap<String, Arc<Process>>,
    warnings: Option<Vec<String>>,
}

#[derive(Serialize)]
struct TraceSpan {
    #[serde(flatten)]
    span: Arc<Span>,
    #[serde(rename = "processID")]
    process_id: String,
    warnings: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(trace_id: TraceId, mut spans: Vec<Arc<Span>>) -> Self {
        spans.sort_by_key(|span| (span.start_time, span.span_id));
        let mut processes: Vec<Arc<Process>> = Vec::new();
        let mut process_id = |process: &Arc<Process>| {
            let known = processes.iter().position(|known| known == process);
            let index = known.unwrap_or_else(|| {
                processes.push(Arc::clone(process));
                processes.len() - 1
            });
            format!("p{}", index + 1)
        };
        let spans: Vec<TraceSpan> = spans
            .into_iter()
            .map(|span| TraceSpan {
                process_id: process_id(&span.process),
                span,
                warnings: None,
            })
            .collect();
        let processes = (1..)
            .zip(processes)
            .map(|(number, process)| (format!("p{number}"), process))
            .collect();
        Self {
            trace_id,
            spans,
            processes,
            warnings: None,
        }
    }
}

/// The envelope of every answer.
#[derive(Serialize)]
pub(crate) struct Answer<T> {
    data: Option<Vec<T>>,
    total: usize,
    limit: usize,
    offset: usize,
    errors: Option<Vec<Failure>>,
}

#[derive(Serialize)]
struct Failure {
    code: u16,
    msg: String,
}

impl<T> Answer<T> {
    /// All of a list.
    pub(crate) fn list(data: Vec<T>) -> Self {
        Self {
            total: data.len(),
            ..Self::traces(data)
        }
    }

    /// Some of many: Jaeger doesn't count them.
    pub(crate) fn traces(data: Vec<T>) -> Self {
        Self {
            data: Some(data),
            total: 0,
            limit: 0,
            offset: 0,
            errors: None,
        }
    }
}

impl Answer<()> {
    pub(crate) fn failure(code: u16, msg: String) -> Self {
        let errors = Some(vec![Failure { code, msg }]);
        Self {
            data: None,
            total: 0,
            limit: 0,
            offset: 0,
            errors,
        }
    }
}

fn as_hex<S: Serializer>(id: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex::encode(id))
}
