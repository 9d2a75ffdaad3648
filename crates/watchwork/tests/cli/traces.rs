use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use otlp_receiver::{Receiver, ReceiverOptions};
use proto::v1::{AttemptResult, Execution, ExecutionState};

use crate::scripted_api::{ID, ScriptedApi, TRACE_ID, attempt, execution};
use crate::{code, stderr, stdout, watchwork};

/// A span of the test's trace; `ids` are its own and its parent's, 0 for none.
fn span(service: &str, name: &str, ids: (u8, u8), ms: (u64, u64)) -> ResourceSpans {
    let id = |number: u8| {
        if number == 0 {
            Vec::new()
        } else {
            vec![number; 8]
        }
    };
    let span = Span {
        trace_id: hex::decode(TRACE_ID).unwrap(),
        span_id: id(ids.0),
        parent_span_id: id(ids.1),
        name: name.to_owned(),
        start_time_unix_nano: 1_790_000_000_000_000_000 + ms.0 * 1_000_000,
        end_time_unix_nano: 1_790_000_000_000_000_000 + ms.1 * 1_000_000,
        ..Span::default()
    };
    let value = Some(AnyValue {
        value: Some(Value::StringValue(service.to_owned())),
    });
    let name = KeyValue {
        key: "service.name".to_owned(),
        value,
        ..KeyValue::default()
    };
    let resource = Resource {
        attributes: vec![name],
        ..Resource::default()
    };
    let spans = ScopeSpans {
        spans: vec![span],
        ..ScopeSpans::default()
    };
    ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![spans],
        ..Default::default()
    }
}

async fn export(receiver: &Receiver, resource_spans: Vec<ResourceSpans>) {
    let address = format!("http://{}", receiver.otlp_grpc_addr);
    let mut client = TraceServiceClient::connect(address).await.unwrap();
    client
        .export(ExportTraceServiceRequest { resource_spans })
        .await
        .unwrap();
}

fn kept() -> Execution {
    let attempts = vec![attempt(1, AttemptResult::Success)];
    Execution {
        trace_kept: true,
        ..execution(ExecutionState::Succeeded, attempts)
    }
}

#[tokio::test]
async fn trace_waits_for_the_last_span_and_draws_all_services() {
    let api = ScriptedApi::start().await;
    api.says(kept());
    let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let url = format!("http://{}", receiver.http_addr);
    let first = [
        span("api-gateway", "api_request", (1, 0), (0, 4)),
        span("scheduler", "schedule_job", (2, 1), (1, 3)),
    ];
    export(&receiver, first.into()).await;
    let args = ["trace", ID, "--traces", &url];
    let (ended, ()) = tokio::join!(watchwork(&api, &args), async {
        // The worker's spans come later than those that the command may see first.
        export(
            &receiver,
            vec![span("worker", "task_execution", (3, 2), (3, 10))],
        )
        .await;
    });
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    let drawn = stdout(&ended);
    assert!(drawn.contains("3 spans of 3 services, 10.0 ms"), "{drawn}");
    let begins = ["api_request ", "└─ schedule_job ", "   └─ task_execution "];
    for begin in begins {
        assert!(
            drawn.lines().any(|line| line.starts_with(begin)),
            "{begin:?} in {drawn}"
        );
    }
}

#[tokio::test]
async fn a_trace_that_was_not_kept_is_said_so() {
    let api = ScriptedApi::start().await;
    let args = ["trace", ID, "--traces", "http://127.0.0.1:9"];
    for (state, text) in [
        (ExecutionState::Succeeded, "was not kept"),
        (ExecutionState::Running, "shows when it ends"),
    ] {
        api.says(execution(state, vec![]));
        let ended = watchwork(&api, &args).await;
        assert_eq!(code(&ended), 3);
        assert!(stderr(&ended).contains(text), "{}", stderr(&ended));
    }
    api.says(kept());
    assert_eq!(
        code(&watchwork(&api, &args).await),
        4,
        "the store can't be asked"
    );
    assert_eq!(
        code(&watchwork(&api, &["trace", ID]).await),
        2,
        "no store is known"
    );
}
