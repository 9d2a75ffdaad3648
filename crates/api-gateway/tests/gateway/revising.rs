use proto::internal::v1::Revision;
use proto::v1::{DiscardExecutionRequest, ExecutionState, RetryExecutionRequest};
use tonic::{Code, Status};

use crate::running_gateway::{RunningGateway, signed, with_authorization, within};
use crate::scripted_scheduler::{READ_ONLY, SECRET, ScriptedScheduler, TENANT};

const ID: &str = "00000000000000000000000000040000";

async fn retry(gateway: &RunningGateway, id: &str) -> Result<ExecutionState, Status> {
    let execution_id = id.to_owned();
    let request = signed(RetryExecutionRequest { execution_id });
    let answer = within(gateway.client().retry_execution(request)).await?;
    Ok(answer.into_inner().state())
}

async fn discard(gateway: &RunningGateway, id: &str) -> Result<ExecutionState, Status> {
    let execution_id = id.to_owned();
    let request = signed(DiscardExecutionRequest { execution_id });
    let answer = within(gateway.client().discard_execution(request)).await?;
    Ok(answer.into_inner().state())
}

#[tokio::test]
async fn a_retry_and_a_discard_go_to_the_lanes_owner_and_its_answer_comes_back() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let state = retry(&gateway, ID).await.unwrap();
    assert_eq!(state, ExecutionState::Queued);
    let asked = within(scheduler.revisions.recv()).await.unwrap();
    assert_eq!((asked.tenant, asked.revision()), (TENANT, Revision::Retry));

    let state = discard(&gateway, ID).await.unwrap();
    assert_eq!(state, ExecutionState::DeadLettered);
    let asked = within(scheduler.revisions.recv()).await.unwrap();
    assert_eq!(asked.revision(), Revision::Discard);

    let failure = Status::failed_precondition("it isn't over");
    *scheduler.failure.lock().unwrap() = Some(failure);
    let refused = retry(&gateway, ID).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "it isn't over");
    let bad = retry(&gateway, "7").await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_nobody_could_decide_is_asked_once_more() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let failure = Status::unavailable("commit in doubt");
    *scheduler.failure.lock().unwrap() = Some(failure);
    let state = retry(&gateway, ID).await.unwrap();
    assert_eq!(state, ExecutionState::Queued, "the second time it worked");
    for _ in 0..2 {
        within(scheduler.revisions.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn who_may_only_read_revises_nothing() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let execution_id = ID.to_owned();
    let key = format!("Bearer wk_{READ_ONLY}_{SECRET}");
    let request = with_authorization(RetryExecutionRequest { execution_id }, &key);
    let refused = within(gateway.client().retry_execution(request)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    assert!(scheduler.revisions.try_recv().is_err());
}
