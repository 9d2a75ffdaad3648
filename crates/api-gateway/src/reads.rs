//! One execution, and lists of them.

use std::sync::Arc;

use bytes::Bytes;
use domain::ExecutionId;
use proto::internal::v1::{GetExecutionRequest, ListExecutionsRequest};
use proto::v1::{Execution, ListExecutionsResponse};

use crate::cluster_view::ClusterView;
use crate::keys::Principal;
use crate::owners::{ask_owner, not_found};
use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// The execution, from the owner of its lane.
///
/// # Errors
/// `NOT_FOUND` if the tenant has none of this id, `UNAVAILABLE` if its lane has no owner that answers.
pub(crate) async fn get_execution(
    cluster: &ClusterView,
    principal: Principal,
    id: ExecutionId,
) -> Result<Execution, Problem> {
    let found = ask_owner(cluster, id, |owner| get(owner, principal, id)).await?;
    found.ok_or_else(|| not_found(id))
}

async fn get(
    owner: Arc<SchedulerLink>,
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
        Err(status) => Err(owner.failure(&status)),
    }
}

/// A page of the tenant's executions, from any scheduler: it asks the others.
///
/// # Errors
/// What the scheduler finds wrong with `list`, `UNAVAILABLE` if none can answer.
pub(crate) async fn list_executions(
    cluster: &ClusterView,
    principal: Principal,
    list: proto::v1::ListExecutionsRequest,
) -> Result<ListExecutionsResponse, Problem> {
    let request = ListExecutionsRequest {
        tenant: principal.tenant,
        list: Some(list),
    };
    cluster.ask_any(|link| page(link, request.clone())).await
}

async fn page(
    link: Arc<SchedulerLink>,
    request: ListExecutionsRequest,
) -> Result<ListExecutionsResponse, CallFailure> {
    let answer = link.client().list_executions(link.read(request)).await;
    let page = answer
        .map_err(|status| link.failure(&status))?
        .into_inner()
        .page;
    page.ok_or_else(|| link.unanswered("gave an answer without page"))
}
