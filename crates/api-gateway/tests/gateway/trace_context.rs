use proto::internal::v1::RequestOrigin;
use proto::v1::{SubmitBatchRequest, SubmitRequest};
use service::TraceContext;

use crate::running_gateway::{RunningGateway, signed, submission, within};
use crate::scripted_scheduler::ScriptedScheduler;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn next_origins(scheduler: &mut ScriptedScheduler) -> Vec<RequestOrigin> {
    let forward = within(scheduler.forwards.recv()).await.unwrap();
    forward
        .submissions
        .into_iter()
        .map(|item| item.origin.unwrap())
        .collect()
}

#[tokio::test]
async fn a_callers_trace_goes_on_with_the_execution() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut request = signed(SubmitRequest {
        submission: Some(submission("a")),
    });
    request
        .metadata_mut()
        .insert("traceparent", TRACEPARENT.parse().unwrap());
    request
        .metadata_mut()
        .insert("tracestate", "a=b".parse().unwrap());
    let answer = within(gateway.client().submit(request)).await.unwrap();

    let caller = TraceContext::parse(TRACEPARENT).unwrap();
    let origin = next_origins(&mut scheduler).await.remove(0);
    let context = TraceContext::from_wire(&origin.trace_context).unwrap();
    assert_eq!((context.trace_id, context.sampled), (caller.trace_id, true));
    assert_ne!(context.span_id, caller.span_id);
    assert_eq!(origin.parent_span_id.as_ref(), caller.span_id);
    assert_eq!(origin.tracestate, "a=b");
    assert!(origin.received_unix_us > 1_600_000_000_000_000);
    assert_eq!(
        answer.metadata().get("x-trace-id").unwrap(),
        caller.trace_id_hex().as_str()
    );
}

#[tokio::test]
async fn without_a_caller_each_execution_begins_a_trace() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let request = signed(SubmitBatchRequest {
        submissions: vec![submission("a"); 3],
    });
    let answer = within(gateway.client().submit_batch(request))
        .await
        .unwrap();
    let origins = next_origins(&mut scheduler).await;
    let context = |origin: &RequestOrigin| TraceContext::from_wire(&origin.trace_context).unwrap();
    let mut traces: Vec<_> = origins
        .iter()
        .map(|origin| context(origin).trace_id_hex())
        .collect();
    assert_eq!(
        answer.metadata().get("x-trace-id").unwrap(),
        traces[0].as_str()
    );
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 3);
    assert!(
        origins
            .iter()
            .all(|origin| origin.parent_span_id.is_empty())
    );
}
