use std::sync::Arc;

use domain::{ExecutionId, ExecutionState, Revision};
use proto::internal::v1::{self as internal, ReviseExecutionRequest, ReviseExecutionResponse};
use tokio::sync::oneshot;
use tonic::Status;

use super::reading::no_owner;
use super::scheduler_service::Internal;
use super::trouble;
use crate::group::{Input, Revise, RevisedVerdict};
use crate::shared::Known;

impl Internal {
    /// Revises an execution that is over by a row of its lane, or has its lane's owner do it: nothing is reported
    /// that wasn't decided.
    pub(crate) async fn revise(
        &self,
        request: ReviseExecutionRequest,
    ) -> Result<ReviseExecutionResponse, Status> {
        let id = self.genuine(&request.execution_id)?;
        if let Some(address) = self.elsewhere(id).filter(|_| !request.forwarded) {
            let request = ReviseExecutionRequest {
                forwarded: true,
                ..request
            };
            let mut client = self.peers.client(&address)?;
            let answer = client.revise_execution(self.peers.request(request)).await?;
            return Ok(answer.into_inner());
        }
        let revision = match request.revision() {
            internal::Revision::Retry => Revision::Retry,
            internal::Revision::Discard => Revision::Discard,
            internal::Revision::Unspecified => {
                return Err(Status::invalid_argument("no revision is named"));
            }
        };
        let stored = self.stored(id, request.tenant).await?;
        let work = self.shared.work_of(stored.head).await;
        let work = Arc::new(work.map_err(|error| trouble(&error))?);
        let (reply, verdict) = oneshot::channel();
        let saved = None;
        let known = Known { id, work, saved };
        let revise = Revise {
            known,
            revision,
            reply,
        };
        self.groups.of(id.lane()).send(Input::Revise(revise)).await;
        let verdict = verdict.await.unwrap_or(RevisedVerdict::NotNow);
        answer(id, revision, verdict)
    }
}

fn answer(
    id: ExecutionId,
    revision: Revision,
    verdict: RevisedVerdict,
) -> Result<ReviseExecutionResponse, Status> {
    let refused = |message: String| Err(Status::failed_precondition(message));
    match verdict {
        RevisedVerdict::Done(state) => Ok(ReviseExecutionResponse {
            state: state as i32,
        }),
        RevisedVerdict::NotNow => Err(no_owner(id)),
        RevisedVerdict::Open => refused(format!(
            "execution {id} isn't over: only what has come to an end runs again, or is discarded"
        )),
        RevisedVerdict::Over(ExecutionState::Succeeded) if revision == Revision::Retry => refused(
            format!("execution {id} has succeeded: submit it anew to run it again"),
        ),
        RevisedVerdict::Over(state) => refused(format!(
            "execution {id} is no dead letter: it is {}",
            state.name()
        )),
        RevisedVerdict::Leaving => refused(format!(
            "execution {id} is past its retention, and is being removed: submit it anew to run it again"
        )),
    }
}
