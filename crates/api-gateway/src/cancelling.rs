//! Cancelling an execution: decided by the owner of its lane. Who cancels what is cancelled already
//! gets the same answer, so a cancellation in doubt is sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::ExecutionId;
use proto::internal::v1::CancelExecutionRequest;
use proto::v1::CancelExecutionResponse;
use tokio::time::timeout;

use crate::cluster_view::ClusterView;
use crate::keys::Principal;
use crate::owners::ask_owner;
use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// How long one try may take: beyond any commit, and two of them are short enough for the caller.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(8);

/// Cancels the execution, and tells where it stands then.
///
/// # Errors
/// `NOT_FOUND` if the tenant has none of this id, `FAILED_PRECONDITION` if it came to another end
/// before, `UNAVAILABLE` if nobody could decide.
pub(crate) async fn cancel_execution(
    cluster: &ClusterView,
    principal: Principal,
    id: ExecutionId,
) -> Result<CancelExecutionResponse, Problem> {
    ask_owner(cluster, id, |owner| cancel(owner, principal, id)).await
}

/// There is no deadline that the scheduler knows: it must not stop half-way.
async fn cancel(
    owner: Arc<SchedulerLink>,
    principal: Principal,
    id: ExecutionId,
) -> Result<CancelExecutionResponse, CallFailure> {
    let request = owner.request(CancelExecutionRequest {
        tenant: principal.tenant,
        execution_id: Bytes::copy_from_slice(id.as_bytes()),
        forwarded: false,
    });
    let mut client = owner.client();
    let Ok(answer) = timeout(CANCEL_TIMEOUT, client.cancel_execution(request)).await else {
        return Err(owner.unanswered("gave no answer in time"));
    };
    let outcome = answer
        .map_err(|status| owner.failure(&status))?
        .into_inner()
        .outcome;
    outcome.ok_or_else(|| owner.unanswered("gave an answer without outcome"))
}
