use std::time::Duration;

use proto::v1::{GetExecutionRequest, SubmitRequest, SubmitResponse};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;

use crate::running_gateway::{RunningGateway, signed, submission, with_authorization, within};
use crate::scripted_scheduler::{
    READ_ONLY, SECRET, SUBMIT_AND_READ, ScriptedScheduler, WORKER, dead_address,
};

#[tokio::test]
async fn only_a_right_key_of_the_right_scope_may_call() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let wrong_secret = SECRET.replace('0', "1");
    let key = |id: &str, secret: &str| format!("Bearer wk_{id}_{secret}");
    let (missing, denied) = (Code::Unauthenticated, Code::PermissionDenied);
    let table = [
        (key(SUBMIT_AND_READ, SECRET), Code::Ok, ""),
        (
            key(SUBMIT_AND_READ, SECRET).replace("Bearer", "bearer"),
            Code::Ok,
            "",
        ),
        (key(READ_ONLY, SECRET), denied, "out_of_scope"),
        (key(WORKER, SECRET), denied, "out_of_scope"),
        (key(SUBMIT_AND_READ, &wrong_secret), missing, "wrong_secret"),
        (key("ffffffffffffffff", SECRET), missing, "unknown"),
        (
            key(SUBMIT_AND_READ, SECRET).replace("Bearer", "Basic"),
            missing,
            "malformed",
        ),
        ("Bearer wk_".to_owned(), missing, "malformed"),
    ];
    for (authorization, code, reason) in table {
        let before = gateway.counter("api_auth_failure_total", &["api_key", reason]);
        let message = SubmitRequest {
            submission: Some(submission("a")),
        };
        let request = with_authorization(message, &authorization);
        let answer = within(gateway.client().submit(request)).await;
        assert_eq!(
            answer.map_or_else(|status| status.code(), |_| Code::Ok),
            code,
            "{authorization}"
        );
        if !reason.is_empty() {
            let after = gateway.counter("api_auth_failure_total", &["api_key", reason]);
            assert_eq!(after, before + 1.0, "{reason}");
        }
    }
    let nothing = gateway
        .client()
        .submit(SubmitRequest::default())
        .await
        .unwrap_err();
    assert_eq!(nothing.code(), Code::Unauthenticated);
    assert_eq!(gateway.counter("api_auth_success_total", &["api_key"]), 2.0);
}

#[tokio::test]
async fn a_key_that_may_only_read_reads() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let message = GetExecutionRequest {
        execution_id: format!("{:032x}", 1 << 18),
    };
    let request = with_authorization(message, &format!("Bearer wk_{READ_ONLY}_{SECRET}"));
    within(gateway.client().get_execution(request))
        .await
        .unwrap();
}

#[tokio::test]
async fn unknown_and_wrong_keys_are_told_the_same() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut answers = Vec::new();
    for key in [
        format!("wk_ffffffffffffffff_{SECRET}"),
        format!("wk_{READ_ONLY}_{SECRET}x"),
    ] {
        let request = with_authorization(SubmitRequest::default(), &format!("Bearer {key}"));
        answers.push(within(gateway.client().submit(request)).await.unwrap_err());
    }
    assert_eq!(answers[0].message(), answers[1].message());
    assert_eq!(answers[0].details(), answers[1].details());
}

#[tokio::test]
async fn a_wrong_field_is_named_in_the_details() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut bad = submission("a");
    bad.priority = 99;
    let request = signed(SubmitRequest {
        submission: Some(bad),
    });
    let status = within(gateway.client().submit(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(
        details.bad_request().unwrap().field_violations[0].field,
        "submission.priority"
    );
    assert_eq!(details.error_info().unwrap().domain, "watchwork");
    let missing = gateway
        .client()
        .submit(signed(SubmitRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_unreadable_message_is_its_senders_fault() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    // Field 1 as bytes that are no Submission, and a Submission whose text is no UTF-8.
    for bytes in [vec![0xff, 0xff], vec![0x0a, 0x01, 0xc3]] {
        let status = raw_call(&gateway, "/watchwork.v1.ExecutionService/Submit", bytes).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_listed_is_served_to_nobody() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    for path in [
        "/watchwork.v1.ExecutionService/Purge",
        "/other.Service/Method",
    ] {
        let status = raw_call(&gateway, path, Vec::new()).await;
        assert_eq!(status.code(), Code::Unimplemented);
    }
    let count = gateway.counter("api_requests_total", &["_other", "UNIMPLEMENTED"]);
    assert_eq!(count, 2.0);
}

#[tokio::test]
async fn without_a_scheduler_it_is_not_ready_and_says_so() {
    let gateway = RunningGateway::start(&[&dead_address()]).await;
    gateway.until(ServingStatus::NotServing).await;
    let request = signed(SubmitRequest {
        submission: Some(submission("a")),
    });
    let status = within(gateway.client().submit(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("no scheduler can be reached"),
        "{status:?}"
    );
    assert!(gateway.process.readiness.check().is_err());
    let failures = gateway.counter("api_auth_failure_total", &["api_key"]);
    assert_eq!(failures, 0.0, "nobody's key is at fault");
}

#[tokio::test]
async fn whose_token_every_scheduler_refuses_is_not_ready_and_says_why() {
    let schedulers = [
        ScriptedScheduler::start("s1"),
        ScriptedScheduler::start("s2"),
    ];
    let seeds = schedulers.each_ref().map(|scheduler| &*scheduler.address);
    let gateway = RunningGateway::start_with_token(&seeds, "another-service-token").await;
    let says_why = async {
        loop {
            match gateway.process.readiness.check() {
                Err(why) if why.contains("refuses this gateway's SERVICE_TOKEN") => return,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    within(says_why).await;
    gateway.until(ServingStatus::NotServing).await;
}

/// The status of a call whose message is `bytes` in field 1.
async fn raw_call(gateway: &RunningGateway, path: &'static str, bytes: Vec<u8>) -> Status {
    let mut client = tonic::client::Grpc::new(gateway.channel());
    client.ready().await.unwrap();
    let codec = ProstCodec::<Vec<u8>, SubmitResponse>::default();
    let call = client.unary(signed(bytes), PathAndQuery::from_static(path), codec);
    within(call).await.unwrap_err()
}
