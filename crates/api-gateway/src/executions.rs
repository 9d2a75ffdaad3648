//! The client API: each method reads its request, has the work done, and says how it went.

use domain::{ExecutionId, limits};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::internal::v1::Revision;
use proto::v1::execution_service_server::ExecutionService;
use proto::v1::submit_verdict::Verdict;
use proto::v1::{
    CancelExecutionRequest, CancelExecutionResponse, DiscardExecutionRequest,
    DiscardExecutionResponse, GetExecutionRequest, GetExecutionResponse, ListExecutionsRequest,
    ListExecutionsResponse, RetryExecutionRequest, RetryExecutionResponse, SubmitBatchRequest,
    SubmitBatchResponse, SubmitRequest, SubmitResponse, SubmitVerdict, WatchExecutionsRequest,
    WatchExecutionsResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::cancelling::cancel_execution;
use crate::cluster_view::ClusterView;
use crate::edge::admitted;
use crate::list_filter::check_list;
use crate::metrics::is_server_fault;
use crate::problem::Problem;
use crate::reads::{get_execution, list_executions};
use crate::request_trace::RequestTrace;
use crate::revising::revise_execution;
use crate::submission::Submitter;
use crate::validation::parse_id;
use crate::watch::watch_executions;

/// The gateway's side of `watchwork.v1.ExecutionService`.
pub(crate) struct Executions {
    cluster: ClusterView,
    submitter: Submitter,
    shutdown: CancellationToken,
}

impl Executions {
    pub(crate) fn new(cluster: ClusterView, shutdown: CancellationToken) -> Self {
        Self {
            submitter: Submitter::new(cluster.clone()),
            cluster,
            shutdown,
        }
    }
}

#[tonic::async_trait]
impl ExecutionService for Executions {
    type WatchExecutionsStream = BoxStream<'static, Result<WatchExecutionsResponse, Status>>;

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let (admitted, message) = admitted(request)?;
        let submission = message
            .submission
            .ok_or_else(|| Problem::invalid("submission", "is missing: say what is to be done"))?;
        let origin = admitted.trace.origin();
        let taken = self
            .submitter
            .submit(admitted.principal, submission, origin)
            .await;
        let stored = taken.map_err(|problem| problem.within("submission"))?;
        Ok(Response::new(stored))
    }

    async fn submit_batch(
        &self,
        request: Request<SubmitBatchRequest>,
    ) -> Result<Response<SubmitBatchResponse>, Status> {
        let (admitted, message) = admitted(request)?;
        let (principal, trace) = (admitted.principal, admitted.trace);
        let origins = trace.origins(message.submissions.len());
        let verdicts = self
            .submitter
            .submit_batch(principal, message.submissions, origins)
            .await?;
        tell_failed_items(&trace, &verdicts);
        Ok(Response::new(SubmitBatchResponse { verdicts }))
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        let (admitted, message) = admitted(request)?;
        let id = parse_id(&message.execution_id)?;
        let execution = get_execution(&self.cluster, admitted.principal, id).await?;
        Ok(Response::new(GetExecutionResponse {
            execution: Some(execution),
        }))
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let (admitted, mut message) = admitted(request)?;
        check_list(&mut message)?;
        let page = list_executions(&self.cluster, admitted.principal, message).await?;
        Ok(Response::new(page))
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        let (admitted, message) = admitted(request)?;
        let id = parse_id(&message.execution_id)?;
        let outcome = cancel_execution(&self.cluster, admitted.principal, id).await?;
        Ok(Response::new(outcome))
    }

    async fn retry_execution(
        &self,
        request: Request<RetryExecutionRequest>,
    ) -> Result<Response<RetryExecutionResponse>, Status> {
        let (admitted, message) = admitted(request)?;
        let id = parse_id(&message.execution_id)?;
        let (cluster, principal) = (&self.cluster, admitted.principal);
        let state = revise_execution(cluster, principal, id, Revision::Retry).await?;
        Ok(Response::new(RetryExecutionResponse { state }))
    }

    async fn discard_execution(
        &self,
        request: Request<DiscardExecutionRequest>,
    ) -> Result<Response<DiscardExecutionResponse>, Status> {
        let (admitted, message) = admitted(request)?;
        let id = parse_id(&message.execution_id)?;
        let (cluster, principal) = (&self.cluster, admitted.principal);
        let state = revise_execution(cluster, principal, id, Revision::Discard).await?;
        Ok(Response::new(DiscardExecutionResponse { state }))
    }

    async fn watch_executions(
        &self,
        request: Request<WatchExecutionsRequest>,
    ) -> Result<Response<Self::WatchExecutionsStream>, Status> {
        let (admitted, message) = admitted(request)?;
        let ids = watched_ids(&message.execution_ids)?;
        let cluster = self.cluster.clone();
        let changes = watch_executions(cluster, admitted.principal, ids, self.shutdown.clone());
        Ok(Response::new(changes.boxed()))
    }
}

fn watched_ids(texts: &[String]) -> Result<Vec<ExecutionId>, Problem> {
    if !(1..=limits::MAX_WATCHED).contains(&texts.len()) {
        let message = format!(
            "{} ids; 1 to {} are allowed",
            texts.len(),
            limits::MAX_WATCHED
        );
        return Err(Problem::invalid("execution_ids", message));
    }
    let mut ids = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let parsed = parse_id(text);
        let field = || format!("execution_ids[{index}]").into();
        ids.push(parsed.map_err(|problem| Problem {
            field: field(),
            ..problem
        })?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn tell_failed_items(trace: &RequestTrace, verdicts: &[SubmitVerdict]) {
    for (index, verdict) in verdicts.iter().enumerate() {
        if let Some(Verdict::Refusal(refusal)) = &verdict.verdict
            && is_server_fault(Code::from_i32(refusal.code))
        {
            trace.fail_item(index, &refusal.message);
        }
    }
}
