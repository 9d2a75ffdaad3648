use std::time::Duration;

use domain::lifecycle_span_id;
use proto::v1;
use proto::v1::AttemptResult;
use proto::v1::SettlementVerdict::Recorded;
use service::TraceContext;

use crate::scheduler::{Conversation, Scheduler, execution, task};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

async fn result_of(stream: &mut Conversation, task: v1::Task) -> v1::Result {
    let id = task.execution_id.clone();
    stream.dispatch([task]).await;
    let result = stream.result().await;
    assert_eq!(result.execution_id, id);
    stream.settle(&result, Recorded).await;
    result
}

/// Type, payload, and what becomes of it: result, error class, permanence.
type Case = (
    &'static str,
    &'static str,
    AttemptResult,
    &'static str,
    bool,
);

#[rustfmt::skip]
const CASES: [Case; 9] = [
    ("typed", r#"{"number": 1}"#, AttemptResult::Success, "", false),
    ("typed", r#"{"number": "one"}"#, AttemptResult::Error, "payload", true),
    ("fail", "", AttemptResult::Error, "told_to_fail", false),
    ("fail", r#"{"permanent": true}"#, AttemptResult::Error, "told_to_fail", true),
    ("fail", r#"{"times": 0}"#, AttemptResult::Success, "", false),
    ("large", "", AttemptResult::Error, "output_too_large", true),
    ("panic", "", AttemptResult::Panic, "panic", false),
    ("sleep", r#"{"ms": 60000}"#, AttemptResult::Timeout, "timeout", false),
    ("unknown", "", AttemptResult::Error, "no_handler", false),
];

#[tokio::test]
async fn every_way_to_end_has_its_result_and_is_counted() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    let mut number = 0;
    for (job_type, payload, expected, class, permanent) in CASES {
        number += 1;
        let mut task = task(0, number, job_type, payload);
        task.timeout_us = if expected == AttemptResult::Timeout {
            10_000
        } else {
            task.timeout_us
        };
        let result = result_of(&mut stream, task).await;
        assert_eq!(result.result(), expected, "{job_type} {payload}");
        let error = result.error.clone().unwrap_or_default();
        assert_eq!(
            (&*error.class, error.permanent),
            (class, permanent),
            "{job_type} {payload}"
        );
        if expected == AttemptResult::Panic {
            assert_eq!(error.message, "out of cheese");
        }
    }
    let completed =
        |status| worker.metric("worker_tasks_completed_total", Some(("status", status)));
    assert_eq!(worker.metric("worker_tasks_received_total", None), 9.0);
    let counts = ["SUCCESS", "FAILED", "TIMEOUT", "CANCELLED"].map(completed);
    assert_eq!(counts, [2.0, 6.0, 1.0, 0.0]);
}

#[tokio::test]
async fn a_handler_is_told_who_it_works_for_and_what_to_pass_on() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    let parent = TraceContext {
        trace_id: [1; 16],
        span_id: [2; 8],
        sampled: true,
    };
    let mut task = task(3, 1, "tell", "");
    task.headers.insert("X-Shop".to_owned(), "7".to_owned());
    task.trace_context = parent.to_wire().to_vec().into();
    task.tracestate = "scheduler=a".to_owned();

    let result = result_of(&mut stream, task).await;
    let told: serde_json::Value = serde_json::from_slice(&result.output).unwrap();
    let span_id = lifecycle_span_id(execution(3, 1), 7, "task_execution");
    let span = TraceContext { span_id, ..parent };
    assert_eq!(told["key"], format!("{}-7", execution(3, 1)));
    assert_eq!(told["headers"]["traceparent"], span.traceparent());
    assert_eq!(told["headers"]["tracestate"], "scheduler=a");
    assert_eq!(told["headers"]["X-Correlation-ID"], "order-1");
    assert_eq!(told["headers"]["X-Shop"], "7");
    assert_eq!(told["seconds_left"], 59);
}

#[tokio::test]
async fn beyond_a_thousand_a_second_single_executions_are_not_logged_but_counted() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 5_000);
    let mut stream = a.welcome(LEASE).await;
    stream
        .dispatch((0..3_000).map(|number| task(0, number, "noop", "")))
        .await;
    assert_eq!(stream.results(3_000).await.len(), 3_000);
    let suppressed = worker.metric("log_lines_suppressed_total", None);
    assert!((3_000.0..=6_000.0).contains(&suppressed), "{suppressed}");
}
