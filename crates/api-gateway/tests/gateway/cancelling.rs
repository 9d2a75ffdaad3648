use proto::v1::{CancelExecutionRequest, ExecutionState};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::running_gateway::{RunningGateway, signed, with_authorization, within};
use crate::scripted_scheduler::{READ_ONLY, SECRET, ScriptedScheduler, TENANT, view};

fn id(lane: u128) -> String {
    format!("{:032x}", lane << 64 | 1 << 18)
}

async fn cancel(gateway: &RunningGateway, execution_id: &str) -> Result<ExecutionState, Status> {
    let execution_id = execution_id.to_owned();
    let request = signed(CancelExecutionRequest { execution_id });
    let answer = within(gateway.client().cancel_execution(request)).await?;
    Ok(answer.into_inner().state())
}

#[tokio::test]
async fn a_cancellation_goes_to_the_lanes_owner_with_its_tenant() {
    let one = ScriptedScheduler::start("s1");
    let mut two = ScriptedScheduler::start("s2");
    let both = view(&[("s1", &one.address), ("s2", &two.address)], &[1, 2]);
    one.say_view(both);
    let gateway = RunningGateway::ready(&[&one.address]).await;
    let state = cancel(&gateway, &id(1)).await.unwrap();
    assert_eq!(state, ExecutionState::Running);
    let asked = within(two.cancels.recv()).await.unwrap();
    assert_eq!((asked.tenant, asked.forwarded), (TENANT, false));
    let bytes = hex(&asked.execution_id);
    assert_eq!(bytes, id(1));
    let labels = ["/watchwork.v1.ExecutionService/CancelExecution", "OK"];
    assert_eq!(gateway.counter("api_requests_total", &labels), 1.0);
}

#[tokio::test]
async fn what_the_scheduler_decides_is_passed_on_in_its_own_words() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    for (failure, reason) in [
        (
            Status::failed_precondition("it is SUCCEEDED already"),
            "FAILED_PRECONDITION",
        ),
        (
            Status::not_found("there is no execution 7"),
            "EXECUTION_NOT_FOUND",
        ),
    ] {
        *scheduler.failure.lock().unwrap() = Some(failure.clone());
        let status = cancel(&gateway, &id(0)).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (failure.code(), failure.message())
        );
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, reason);
        within(scheduler.cancels.recv()).await.unwrap();
    }
    assert!(
        scheduler.cancels.try_recv().is_err(),
        "a decision isn't asked for twice"
    );
    for bad in ["", "7", "zz99c8a1-7d2e-8003-8000-0000000c3a91"] {
        let status = cancel(&gateway, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}");
    }
    let elsewhere = cancel(&gateway, &id(4_000)).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::NotFound, "no such lane");
}

#[tokio::test]
async fn where_nobody_can_decide_it_is_tried_once_more_and_then_said() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let failure = || Some(Status::unavailable("commit in doubt"));
    *scheduler.failure.lock().unwrap() = failure();
    let state = cancel(&gateway, &id(0)).await.unwrap();
    assert_eq!(state, ExecutionState::Running, "the second time it worked");
    for _ in 0..2 {
        within(scheduler.cancels.recv()).await.unwrap();
    }

    scheduler.close_gate();
    let refusing = async {
        for _ in 0..2 {
            within(scheduler.cancels.recv()).await.unwrap();
            *scheduler.failure.lock().unwrap() = failure();
            scheduler.gate.add_permits(1);
        }
    };
    let execution = id(0);
    let (answer, ()) = tokio::join!(cancel(&gateway, &execution), refusing);
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("commit in doubt"), "{status:?}");
    assert!(
        status.get_error_details().retry_info().is_some(),
        "cancelling again does no harm"
    );
}

#[tokio::test]
async fn a_cancellation_that_broke_off_is_sent_to_the_new_owner() {
    let mut one = ScriptedScheduler::start("s1");
    let mut two = ScriptedScheduler::start("s2");
    let both = view(&[("s1", &one.address), ("s2", &two.address)], &[1, 2]);
    two.say_view(both);
    let gateway = RunningGateway::ready(&[&two.address]).await;
    one.close_gate();
    let breaking = async {
        within(one.cancels.recv()).await.unwrap();
        two.say_view(view(&[("s2", &two.address)], &[1, 1]));
        one.kill();
    };
    let execution = id(0);
    let (answer, ()) = tokio::join!(cancel(&gateway, &execution), breaking);
    assert_eq!(answer.unwrap(), ExecutionState::Running);
    within(two.cancels.recv()).await.unwrap();
}

#[tokio::test]
async fn a_key_that_may_only_read_cancels_nothing() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let message = CancelExecutionRequest {
        execution_id: id(0),
    };
    let request = with_authorization(message, &format!("Bearer wk_{READ_ONLY}_{SECRET}"));
    let status = within(gateway.client().cancel_execution(request))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(scheduler.cancels.try_recv().is_err());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
