//! The receiver behind real exporters and a real HTTP client.
#![expect(clippy::unwrap_used, reason = "a test fails by panic")]

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value as OtelValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use otlp_receiver::{Receiver, ReceiverOptions};
use reqwest::StatusCode;
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn grpc_exporter(receiver: &Receiver) -> SpanExporter {
    SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://{}", receiver.otlp_grpc_addr))
        .build()
        .unwrap()
}

fn http_exporter(receiver: &Receiver) -> SpanExporter {
    SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("http://{}/v1/traces", receiver.http_addr))
        .build()
        .unwrap()
}

fn for_service(mut exporter: SpanExporter, service: &'static str) -> SpanExporter {
    let instance = KeyValue::new("service.instance.id", "one");
    let resource = Resource::builder_empty()
        .with_service_name(service)
        .with_attribute(instance);
    exporter.set_resource(&resource.build());
    exporter
}

fn context(trace_id: &str, span_id: u64) -> SpanContext {
    let trace_id = TraceId::from_hex(trace_id).unwrap();
    let span_id = SpanId::from_bytes(span_id.to_be_bytes());
    SpanContext::new(
        trace_id,
        span_id,
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}

/// A span that began 100 ms after 1970, ran for 2.5 ms, and has a bit of everything.
fn span(name: &'static str, span_id: u64, parent: u64) -> SpanData {
    let start_time = SystemTime::UNIX_EPOCH + Duration::from_millis(100);
    let mut events = SpanEvents::default();
    events.events.push(Event::new(
        "checkpoint",
        start_time,
        vec![KeyValue::new("n", 1)],
        0,
    ));
    let mut links = SpanLinks::default();
    links.links.push(Link::with_context(context("1f", 7)));
    SpanData {
        span_context: context(TRACE, span_id),
        parent_span_id: SpanId::from_bytes(parent.to_be_bytes()),
        parent_span_is_remote: false,
        span_kind: SpanKind::Consumer,
        name: name.into(),
        start_time,
        end_time: start_time + Duration::from_micros(2_500),
        attributes: vec![
            KeyValue::new("attempt", 2),
            KeyValue::new("share", 0.5),
            KeyValue::new("last", true),
            KeyValue::new("queues", OtelValue::Array(Array::I64(vec![1, 2]))),
        ],
        dropped_attributes_count: 0,
        events,
        links,
        status: Status::error("it broke"),
        instrumentation_scope: InstrumentationScope::builder("test").build(),
    }
}

async fn get(receiver: &Receiver, path: &str) -> (StatusCode, Value) {
    let answer = reqwest::get(format!("http://{}{path}", receiver.http_addr))
        .await
        .unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn found(receiver: &Receiver, query: &str) -> usize {
    let (status, answer) = get(receiver, &format!("/api/traces?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn spans_of_both_protocols_make_one_trace_in_jaegers_form() {
    let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let scheduler = for_service(grpc_exporter(&receiver), "scheduler");
    scheduler
        .export(vec![span("schedule_job", 1, 0)])
        .await
        .unwrap();
    let worker = for_service(http_exporter(&receiver), "worker");
    worker
        .export(vec![span("task_execution", 2, 1)])
        .await
        .unwrap();
    // The same span again, as after a failover between commit and export.
    scheduler
        .export(vec![span("schedule_job", 1, 0)])
        .await
        .unwrap();

    let (status, answer) = get(&receiver, &format!("/api/traces/{TRACE}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["errors"], Value::Null);
    let trace = &answer["data"][0];
    assert_eq!(trace["traceID"], TRACE);
    assert_eq!(trace["spans"].as_array().unwrap().len(), 2);
    assert_eq!(trace["processes"]["p1"]["serviceName"], "scheduler");
    let instance = json!([{"key": "service.instance.id", "type": "string", "value": "one"}]);
    assert_eq!(trace["processes"]["p2"]["tags"], instance);
    assert_eq!(
        trace["spans"][1],
        json!({
            "traceID": TRACE,
            "spanID": "0000000000000002",
            "flags": 1,
            "operationName": "task_execution",
            "references": [
                {"refType": "CHILD_OF", "traceID": TRACE, "spanID": "0000000000000001"},
                {"refType": "FOLLOWS_FROM", "traceID": format!("{:032x}", 0x1f),
                 "spanID": "0000000000000007"},
            ],
            "startTime": 100_000,
            "duration": 2_500,
            "tags": [
                {"key": "attempt", "type": "int64", "value": 2},
                {"key": "share", "type": "float64", "value": 0.5},
                {"key": "last", "type": "bool", "value": true},
                {"key": "queues", "type": "string", "value": "[1,2]"},
                {"key": "otel.scope.name", "type": "string", "value": "test"},
                {"key": "span.kind", "type": "string", "value": "consumer"},
                {"key": "otel.status_code", "type": "string", "value": "ERROR"},
                {"key": "error", "type": "bool", "value": true},
                {"key": "otel.status_description", "type": "string", "value": "it broke"},
            ],
            "logs": [{"timestamp": 100_000, "fields": [
                {"key": "event", "type": "string", "value": "checkpoint"},
                {"key": "n", "type": "int64", "value": 1},
            ]}],
            "processID": "p2",
            "warnings": null,
        })
    );
    receiver.stop().await;
}

#[tokio::test]
async fn traces_are_found_by_service_operation_tags_time_and_duration() {
    let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let worker = for_service(grpc_exporter(&receiver), "worker");
    worker
        .export(vec![span("task_execution", 1, 0)])
        .await
        .unwrap();

    let (_, services) = get(&receiver, "/api/services").await;
    assert_eq!(
        (&services["data"], &services["total"]),
        (&json!(["worker"]), &json!(1))
    );
    let (_, operations) = get(&receiver, "/api/services/worker/operations").await;
    assert_eq!(operations["data"], json!(["task_execution"]));

    for query in [
        "service=worker&operation=task_execution&limit=20&lookback=1h",
        "service=worker&tags=%7B%22error%22%3A%22true%22%2C%22attempt%22%3A%222%22%7D",
        "service=worker&tag=service.instance.id%3Aone",
        "service=worker&start=100000&end=100000&minDuration=2ms&maxDuration=3ms",
    ] {
        assert_eq!(found(&receiver, query).await, 1, "{query}");
    }
    for query in [
        "service=scheduler",
        "service=worker&operation=other",
        "service=worker&tags=%7B%22attempt%22%3A%223%22%7D",
        "service=worker&start=100001",
        "service=worker&minDuration=3ms",
        "service=worker&limit=0",
    ] {
        assert_eq!(found(&receiver, query).await, 0, "{query}");
    }
}

#[tokio::test]
async fn what_is_unknown_or_unreadable_is_answered_in_jaegers_form() {
    let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let (status, answer) = get(&receiver, &format!("/api/traces/{TRACE}")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(answer["data"], Value::Null);
    assert_eq!(
        answer["errors"],
        json!([{"code": 404, "msg": "trace not found"}])
    );
    assert_eq!(
        get(&receiver, "/api/traces/xyz").await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        get(&receiver, "/api/traces?limit=20").await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn a_span_without_a_legal_id_is_rejected_and_the_others_are_kept() {
    let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let worker = for_service(http_exporter(&receiver), "worker");
    worker
        .export(vec![span("without", 0, 0), span("with", 1, 0)])
        .await
        .unwrap();
    let (_, operations) = get(&receiver, "/api/services/worker/operations").await;
    assert_eq!(operations["data"], json!(["with"]));
}

#[tokio::test]
async fn stopping_frees_the_ports_in_spite_of_open_connections() {
    let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let exporter = grpc_exporter(&receiver);
    exporter
        .export(vec![span("task_execution", 1, 0)])
        .await
        .unwrap();
    let addresses = [receiver.otlp_grpc_addr, receiver.http_addr];
    tokio::time::timeout(Duration::from_secs(5), receiver.stop())
        .await
        .unwrap();
    for address in addresses {
        tokio::net::TcpListener::bind(address).await.unwrap();
    }
}
