//! What somebody does to an execution that is over: decided by the owner of its lane. Doing it again gives the
//! same answer, so what is in doubt is asked again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::ExecutionId;
use proto::internal::v1::{ReviseExecutionRequest, Revision};
use tokio::time::timeout;

use crate::cluster_view::ClusterView;
use crate::keys::Principal;
use crate::owners::ask_owner;
use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// How long one try may take: beyond any commit, and two of them are short enough for the caller.
const REVISION_TIMEOUT: Duration = Duration::from_secs(8);

/// Revises the execution, and gives the number of the state that it stands in then.
///
/// # Errors
/// `NOT_FOUND` if the tenant has none of this id, `FAILED_PRECONDITION` if it isn't over or ended otherwise,
/// `UNAVAILABLE` if nobody could decide.
pub(crate) async fn revise_execution(
    cluster: &ClusterView,
    principal: Principal,
    id: ExecutionId,
    revision: Revision,
) -> Result<i32, Problem> {
    ask_owner(cluster, id, |owner| revise(owner, principal, id, revision)).await
}

/// There is no deadline that the scheduler knows: it must not stop half-way.
async fn revise(
    owner: Arc<SchedulerLink>,
    principal: Principal,
    id: ExecutionId,
    revision: Revision,
) -> Result<i32, CallFailure> {
    let request = owner.request(ReviseExecutionRequest {
        tenant: principal.tenant,
        execution_id: Bytes::copy_from_slice(id.as_bytes()),
        revision: revision.into(),
        forwarded: false,
    });
    let mut client = owner.client();
    let Ok(answer) = timeout(REVISION_TIMEOUT, client.revise_execution(request)).await else {
        return Err(owner.unanswered("gave no answer in time"));
    };
    let answer = answer.map_err(|status| owner.failure(&status))?;
    Ok(answer.into_inner().state)
}
