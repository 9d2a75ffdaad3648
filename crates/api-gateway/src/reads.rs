//! Asking the owner of an execution's lane about it.

use std::time::Duration;

use bytes::Bytes;
use domain::ExecutionId;
use proto::internal::v1::GetExecutionRequest;
use proto::v1::Execution;
use tonic::Code;

use crate::cluster_view::{ClusterView, View, no_owner};
use crate::keys::Principal;
use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// How long a read that failed waits for news of the cluster before it tries once more.
const PATIENCE: Duration = Duration::from_millis(250);

/// The execution, from the owner of its lane.
///
/// # Errors
/// `NOT_FOUND` if the tenant has none of this id, `UNAVAILABLE` if its lane has no owner that answers.
pub(crate) async fn get_execution(
    cluster: &ClusterView,
    principal: Principal,
    id: ExecutionId,
) -> Result<Execution, Problem> {
    let view = cluster.now();
    let first = match ask_owner(&view, principal, id).await? {
        Err(failure) if failure.is_worth_another_read() => {
            cluster.newer_than(&view, PATIENCE).await;
            ask_owner(&cluster.now(), principal, id).await?
        }
        other => other,
    };
    first.map_err(|failure| failure.of_read())
}

/// There is no execution of this id, as far as this tenant may know.
pub(crate) fn not_found(id: ExecutionId) -> Problem {
    let message = format!("there is no execution {id}");
    Problem::new(Code::NotFound, "EXECUTION_NOT_FOUND", message)
}

/// Whether the id was made elsewhere: the cluster is known and has no such lane.
pub(crate) fn is_foreign(view: &View, id: ExecutionId) -> bool {
    view.has_schedulers() && !view.has_lane(id.lane())
}

async fn ask_owner(
    view: &View,
    principal: Principal,
    id: ExecutionId,
) -> Result<Result<Execution, CallFailure>, Problem> {
    if is_foreign(view, id) {
        return Err(not_found(id));
    }
    let owner = view
        .owner(id.lane())
        .ok_or_else(|| no_owner(view, id.lane()))?;
    match ask(owner, principal, id).await {
        Ok(Some(execution)) => Ok(Ok(execution)),
        Ok(None) => Err(not_found(id)),
        Err(failure) => Ok(Err(failure)),
    }
}

async fn ask(
    owner: &SchedulerLink,
    principal: Principal,
    id: ExecutionId,
) -> Result<Option<Execution>, CallFailure> {
    let request = owner.read(GetExecutionRequest {
        tenant: principal.tenant,
        execution_id: Bytes::copy_from_slice(id.as_bytes()),
        forwarded: false,
    });
    match owner.client().get_execution(request).await {
        Ok(answer) => Ok(answer.into_inner().execution),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(owner.failure(&status)),
    }
}
