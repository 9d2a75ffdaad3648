//! From OTLP to Jaeger's form.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value as OtlpValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span as OtlpSpan, Status};
use serde_json::{Value, json};

use crate::jaeger::{Log, Process, Reference, ReferenceType, Span, Tag, TagType};

/// What one export request held.
pub(crate) struct Translated {
    pub(crate) spans: Vec<Arc<Span>>,
    /// Spans without legal ids.
    pub(crate) rejected: usize,
}

/// Jaeger's name for a resource that doesn't name its service.
const UNNAMED_SERVICE: &str = "OTLPResourceNoServiceName";
const SERVICE_NAME: &str = "service.name";
const NANOS_PER_MICRO: u64 = 1_000;

pub(crate) fn translate(resource_spans: Vec<ResourceSpans>) -> Translated {
    let mut translated = Translated {
        spans: Vec::new(),
        rejected: 0,
    };
    for of_resource in resource_spans {
        let process = Arc::new(process(of_resource.resource.unwrap_or_default()));
        for of_scope in of_resource.scope_spans {
            let scope = of_scope.scope.unwrap_or_default();
            for otlp in of_scope.spans {
                match span(otlp, &scope, &process) {
                    Some(span) => translated.spans.push(Arc::new(span)),
                    None => translated.rejected += 1,
                }
            }
        }
    }
    translated
}

fn process(resource: Resource) -> Process {
    let mut tags = tags(resource.attributes);
    let name = tags
        .iter()
        .position(|tag| tag.key == SERVICE_NAME)
        .map(|at| tags.remove(at));
    let name = name.and_then(|tag| tag.value.as_str().map(str::to_owned));
    let name = name.filter(|name| !name.is_empty());
    Process {
        service_name: name.unwrap_or_else(|| UNNAMED_SERVICE.to_owned()),
        tags,
    }
}

fn span(otlp: OtlpSpan, scope: &InstrumentationScope, process: &Arc<Process>) -> Option<Span> {
    let trace_id = id(&otlp.trace_id)?;
    let parent = id(&otlp.parent_span_id).map(|span_id| Reference {
        ref_type: ReferenceType::ChildOf,
        trace_id,
        span_id,
    });
    let mut tags = tags(otlp.attributes);
    tags.extend(scope_tags(scope));
    tags.extend(kind_tag(otlp.kind));
    tags.extend(status_tags(otlp.status.unwrap_or_default()));
    if !otlp.trace_state.is_empty() {
        tags.push(text("w3c.tracestate", otlp.trace_state));
    }
    let duration = otlp
        .end_time_unix_nano
        .saturating_sub(otlp.start_time_unix_nano);
    Some(Span {
        trace_id,
        span_id: id(&otlp.span_id)?,
        // The low byte holds W3C's flags, the rest is OTLP's own.
        flags: otlp.flags & 0xff,
        operation_name: otlp.name,
        references: parent
            .into_iter()
            .chain(otlp.links.iter().filter_map(link))
            .collect(),
        start_time: otlp.start_time_unix_nano / NANOS_PER_MICRO,
        duration: duration / NANOS_PER_MICRO,
        tags,
        logs: otlp.events.into_iter().map(log).collect(),
        process: Arc::clone(process),
    })
}

/// An id of the right length that isn't all zero.
fn id<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok().filter(|id| *id != [0; N])
}

fn link(link: &Link) -> Option<Reference> {
    Some(Reference {
        ref_type: ReferenceType::FollowsFrom,
        trace_id: id(&link.trace_id)?,
        span_id: id(&link.span_id)?,
    })
}

fn log(event: Event) -> Log {
    let mut fields = tags(event.attributes);
    if !event.name.is_empty() {
        fields.insert(0, text("event", event.name));
    }
    Log {
        timestamp: event.time_unix_nano / NANOS_PER_MICRO,
        fields,
    }
}

fn scope_tags(scope: &InstrumentationScope) -> impl Iterator<Item = Tag> {
    [
        ("otel.scope.name", &scope.name),
        ("otel.scope.version", &scope.version),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| text(key, value.clone()))
}

fn kind_tag(kind: i32) -> Option<Tag> {
    let kind = match SpanKind::try_from(kind).ok()? {
        SpanKind::Unspecified => return None,
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    };
    Some(text("span.kind", kind.to_owned()))
}

fn status_tags(status: Status) -> Vec<Tag> {
    let code = match status.code() {
        StatusCode::Unset => return Vec::new(),
        StatusCode::Ok => return vec![text("otel.status_code", "OK".to_owned())],
        StatusCode::Error => text("otel.status_code", "ERROR".to_owned()),
    };
    let error = Tag {
        key: "error".to_owned(),
        kind: TagType::Bool,
        value: Value::Bool(true),
    };
    let description = Some(status.message).filter(|message| !message.is_empty());
    let description = description.map(|message| text("otel.status_description", message));
    [code, error].into_iter().chain(description).collect()
}

fn tags(attributes: Vec<KeyValue>) -> Vec<Tag> {
    attributes
        .into_iter()
        .map(|KeyValue { key, value, .. }| {
            let (kind, value) = typed(value.unwrap_or_default());
            Tag { key, kind, value }
        })
        .collect()
}

fn text(key: &str, value: String) -> Tag {
    Tag {
        key: key.to_owned(),
        kind: TagType::String,
        value: Value::String(value),
    }
}

/// Jaeger has no lists and maps: those are their JSON as text.
fn typed(value: AnyValue) -> (TagType, Value) {
    let value = plain(value);
    match value {
        (Some(kind), value) => (kind, value),
        (None, value) => (TagType::String, Value::String(value.to_string())),
    }
}

/// A value as JSON, and its type unless it is made of several.
fn plain(value: AnyValue) -> (Option<TagType>, Value) {
    match value.value {
        Some(OtlpValue::StringValue(text)) => (Some(TagType::String), text.into()),
        Some(OtlpValue::BoolValue(truth)) => (Some(TagType::Bool), truth.into()),
        Some(OtlpValue::IntValue(number)) => (Some(TagType::Int64), number.into()),
        // JSON has no infinities: those become null.
        Some(OtlpValue::DoubleValue(number)) => (Some(TagType::Float64), json!(number)),
        Some(OtlpValue::BytesValue(bytes)) => (Some(TagType::Binary), hex::encode(bytes).into()),
        Some(OtlpValue::ArrayValue(array)) => (
            None,
            array
                .values
                .into_iter()
                .map(|value| plain(value).1)
                .collect(),
        ),
        Some(OtlpValue::KvlistValue(list)) => {
            let entry = |entry: KeyValue| (entry.key, plain(entry.value.unwrap_or_default()).1);
            (
                None,
                Value::Object(list.values.into_iter().map(entry).collect()),
            )
        }
        // Indices into a table that is only sent with profiles.
        Some(OtlpValue::StringValueStrindex(index)) => (Some(TagType::Int64), index.into()),
        None => (Some(TagType::String), "".into()),
    }
}
