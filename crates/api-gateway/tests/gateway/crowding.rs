use std::time::Duration;

use prost::Message as _;
use proto::v1::{Submission, SubmitBatchRequest, SubmitBatchResponse, SubmitRequest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::running_gateway::{RunningGateway, signed, submission, with_authorization, within};
use crate::scripted_scheduler::{NEIGHBOUR, SECRET, ScriptedScheduler};

const MIB: usize = 1 << 20;

/// A batch of some 7 MiB.
fn large_batch() -> Request<SubmitBatchRequest> {
    let submissions = vec![submission(&"x".repeat(MIB - 1)); 7];
    signed(SubmitBatchRequest { submissions })
}

fn of_neighbour() -> Request<SubmitRequest> {
    let submission = Some(submission("neighbour"));
    let authorization = format!("Bearer wk_{NEIGHBOUR}_{SECRET}");
    with_authorization(SubmitRequest { submission }, &authorization)
}

type Batches = JoinSet<Result<Response<SubmitBatchResponse>, Status>>;

/// Sends so many large batches at the same time.
fn send_large_batches(gateway: &RunningGateway, count: usize) -> Batches {
    (0..count)
        .map(|_| {
            // The answer holds as much as the batch: its verdicts are payloads here.
            let mut client = gateway.client().max_decoding_message_size(8 * MIB);
            async move { client.submit_batch(large_batch()).await }
        })
        .collect()
}

#[tokio::test]
async fn batches_beyond_a_tenants_share_are_refused_and_its_neighbour_is_served() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    scheduler.close_gate();
    // Half of 64 MiB takes four of them.
    let mut batches = send_large_batches(&gateway, 8);
    for _ in 0..4 {
        let refused = within(batches.join_next()).await.unwrap().unwrap();
        let status = refused.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "GATEWAY_OVERLOADED");
        let delay = details.retry_info().unwrap().retry_delay;
        assert_eq!(delay, Some(Duration::from_secs(1)));
    }
    for _ in 0..4 {
        within(scheduler.forwards.recv()).await.unwrap();
    }

    let mut client = gateway.client();
    let neighbours = tokio::spawn(async move { client.submit(of_neighbour()).await });
    within(scheduler.forwards.recv()).await.unwrap();
    scheduler.gate.add_permits(5);
    assert!(within(neighbours).await.unwrap().is_ok());
    while let Some(answered) = within(batches.join_next()).await {
        assert_eq!(answered.unwrap().unwrap().into_inner().verdicts.len(), 7);
    }

    scheduler.gate.add_permits(1);
    let again = within(send_large_batches(&gateway, 1).join_next()).await;
    assert!(again.unwrap().unwrap().is_ok(), "what is over makes room");
}

#[tokio::test]
async fn a_batch_of_countless_empty_items_is_refused_before_it_is_read() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let submissions = vec![Submission::default(); 10_001];
    let batch = signed(SubmitBatchRequest { submissions });
    let status = within(gateway.client().submit_batch(batch)).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("10000 items"), "{status:?}");
}

#[tokio::test]
async fn a_call_ends_at_its_callers_deadline_and_is_counted_so() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    scheduler.close_gate();
    let mut request = signed(SubmitRequest {
        submission: Some(submission("a")),
    });
    request.set_timeout(Duration::from_millis(200));
    within(gateway.client().submit(request)).await.unwrap_err();
    let counted = async {
        let labels = ["DEADLINE_EXCEEDED"];
        while gateway.counter("api_requests_total", &labels) < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(counted).await;
}

/// By a client without a clock of its own, which would hang up first.
#[tokio::test]
async fn a_call_whose_deadline_passes_is_told_so_and_what_may_have_become_of_it() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    scheduler.close_gate();
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let authorization = format!("Bearer wk_{NEIGHBOUR}_{SECRET}");
    let request = http::Request::post("http://gateway/watchwork.v1.ExecutionService/Submit")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", authorization)
        .header("grpc-timeout", "50m");
    let (answer, mut body) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let message = of_neighbour().into_inner().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0][..], &length, &message].concat();
    body.send_data(framed.into(), true).unwrap();
    let answer = within(answer).await.unwrap();
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(
        status.message().contains("may or may not have been taken"),
        "{status:?}"
    );
}
