//! An API that says what a test tells it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use proto::v1::execution_service_server::{ExecutionService, ExecutionServiceServer};
use proto::v1::fleet_service_server::{FleetService, FleetServiceServer};
use proto::v1::{
    Attempt, AttemptResult, CancelExecutionRequest, CancelExecutionResponse,
    DiscardExecutionRequest, DiscardExecutionResponse, DrainWorkerRequest, DrainWorkerResponse,
    Execution, ExecutionState, GetExecutionRequest, GetExecutionResponse, ListExecutionsRequest,
    ListExecutionsResponse, ListWorkersRequest, ListWorkersResponse, RetryExecutionRequest,
    RetryExecutionResponse, Submission, SubmitBatchRequest, SubmitBatchResponse, SubmitRequest,
    SubmitResponse, WatchExecutionsRequest, WatchExecutionsResponse, Worker,
};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

pub(crate) const KEY: &str = "wk_0123456789abcdef_0123456789abcdefghijklmnopqrstuv";
pub(crate) const ID: &str = "0199c8a1-7d2e-8003-8000-0000000c3a91";
pub(crate) const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// An idempotency key that was used before.
pub(crate) const KNOWN_KEY: &str = "known";

type Changes = Vec<Result<WatchExecutionsResponse, Status>>;

pub(crate) struct ScriptedApi {
    pub(crate) address: String,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    submitted: Option<Submission>,
    execution: Option<Execution>,
    failure: Option<Status>,
    watches: VecDeque<Changes>,
    watched: Vec<String>,
    cancels: Vec<(String, Result<ExecutionState, Status>)>,
    revisions: Vec<(&'static str, String)>,
    refused: Vec<(String, Status)>,
    pages: VecDeque<ListExecutionsResponse>,
    listed: Vec<ListExecutionsRequest>,
    workers: VecDeque<Vec<Worker>>,
    drained: Option<DrainWorkerRequest>,
}

impl ScriptedApi {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self::at(listener.local_addr().unwrap());
        api.serve(listener);
        api
    }

    /// Answers who comes from now on.
    pub(crate) fn serve(&self, listener: TcpListener) {
        let service = ExecutionServiceServer::new(Service(Arc::clone(&self.script)));
        let fleet = FleetServiceServer::new(Service(Arc::clone(&self.script)));
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .add_service(fleet);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    }

    /// One that nobody listens for.
    pub(crate) fn gone() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::at(listener.local_addr().unwrap())
    }

    /// One that isn't served yet.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self {
            address: format!("http://{address}"),
            script: Arc::default(),
        }
    }

    /// From now on this is the execution.
    pub(crate) fn says(&self, execution: Execution) {
        self.script.lock().unwrap().execution = Some(execution);
    }

    /// The next get fails so.
    pub(crate) fn fails_with(&self, status: Status) {
        self.script.lock().unwrap().failure = Some(status);
    }

    /// A further watch, after those that were given before, plays these changes.
    pub(crate) fn plays(&self, changes: Changes) {
        self.script.lock().unwrap().watches.push_back(changes);
    }

    /// The next cancellation of an execution ends so.
    pub(crate) fn cancels(&self, id: &str, end: Result<ExecutionState, Status>) {
        let mut script = self.script.lock().unwrap();
        script.cancels.push((id.to_owned(), end));
    }

    /// Who wants to revise an execution is refused so.
    pub(crate) fn refuses(&self, id: &str, status: Status) {
        let mut script = self.script.lock().unwrap();
        script.refused.push((id.to_owned(), status));
    }

    /// What was retried and discarded, in order.
    pub(crate) fn revisions(&self) -> Vec<(&'static str, String)> {
        self.script.lock().unwrap().revisions.clone()
    }

    /// A further list, after those that were given before, has this page.
    pub(crate) fn lists(&self, page: ListExecutionsResponse) {
        self.script.lock().unwrap().pages.push_back(page);
    }

    /// The workers are these; asked again, those that were given after them, and the last ones from then on.
    pub(crate) fn has_workers(&self, workers: Vec<Worker>) {
        self.script.lock().unwrap().workers.push_back(workers);
    }

    /// Who was to leave last.
    pub(crate) fn drained(&self) -> DrainWorkerRequest {
        self.script.lock().unwrap().drained.clone().unwrap()
    }

    /// What was asked of lists, in order.
    pub(crate) fn listed(&self) -> Vec<ListExecutionsRequest> {
        self.script.lock().unwrap().listed.clone()
    }

    /// What was watched last.
    pub(crate) fn watched(&self) -> Vec<String> {
        self.script.lock().unwrap().watched.clone()
    }

    /// What was submitted last.
    pub(crate) fn submitted(&self) -> Submission {
        self.script.lock().unwrap().submitted.clone().unwrap()
    }
}

pub(crate) fn execution(state: ExecutionState, attempts: Vec<Attempt>) -> Execution {
    Execution {
        execution_id: ID.to_owned(),
        job_type: "mail.send".to_owned(),
        queue: "default".to_owned(),
        state: state as i32,
        correlation_id: ID.to_owned(),
        trace_id: TRACE_ID.to_owned(),
        max_attempts: 5,
        attempts,
        ..Execution::default()
    }
}

pub(crate) fn attempt(number: u32, result: AttemptResult) -> Attempt {
    Attempt {
        number,
        result: result as i32,
        ..Attempt::default()
    }
}

pub(crate) fn change(state: ExecutionState) -> WatchExecutionsResponse {
    let execution_id = ID.to_owned();
    WatchExecutionsResponse {
        execution_id,
        state: state as i32,
        attempt: 1,
        ..Default::default()
    }
}

struct Service(Arc<Mutex<Script>>);

/// The key is the one that the command was given.
fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let sent = request
        .metadata()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let is_right = sent == Some(&format!("Bearer {KEY}"));
    is_right
        .then_some(())
        .ok_or_else(|| Status::unauthenticated("wrong key"))
}

impl Service {
    fn revise(&self, what: &'static str, id: String) -> Result<(), Status> {
        let mut script = self.0.lock().unwrap();
        if let Some((_, status)) = script.refused.iter().find(|(of, _)| *of == id) {
            return Err(status.clone());
        }
        script.revisions.push((what, id));
        Ok(())
    }
}

#[tonic::async_trait]
impl FleetService for Service {
    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let mut script = self.0.lock().unwrap();
        let workers = match script.workers.len() {
            0 | 1 => script.workers.front().cloned(),
            _ => script.workers.pop_front(),
        };
        let workers = workers.unwrap_or_default();
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let mut script = self.0.lock().unwrap();
        script.drained = Some(request.into_inner());
        match script.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(Response::new(DrainWorkerResponse { running: 3 })),
        }
    }
}

#[tonic::async_trait]
impl ExecutionService for Service {
    type WatchExecutionsStream = Pin<
        Box<
            dyn tonic::codegen::tokio_stream::Stream<Item = Result<WatchExecutionsResponse, Status>>
                + Send,
        >,
    >;

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        check(&request)?;
        let submission = request.into_inner().submission.unwrap();
        let duplicate = submission.idempotency_key == KNOWN_KEY;
        self.0.lock().unwrap().submitted = Some(submission);
        Ok(Response::new(SubmitResponse {
            execution_id: ID.to_owned(),
            duplicate,
        }))
    }

    async fn submit_batch(
        &self,
        _: Request<SubmitBatchRequest>,
    ) -> Result<Response<SubmitBatchResponse>, Status> {
        Err(Status::unimplemented("no command sends batches"))
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        check(&request)?;
        let mut script = self.0.lock().unwrap();
        match script.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(Response::new(GetExecutionResponse {
                execution: script.execution.clone(),
            })),
        }
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        check(&request)?;
        let mut script = self.0.lock().unwrap();
        script.listed.push(request.into_inner());
        let page = script.pages.pop_front();
        Ok(Response::new(page.unwrap_or_default()))
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        check(&request)?;
        let id = request.into_inner().execution_id;
        let cancels = &mut self.0.lock().unwrap().cancels;
        let place = cancels.iter().position(|(of, _)| *of == id);
        let place = place.ok_or_else(|| Status::not_found("there is no such execution"))?;
        let state = cancels.remove(place).1?;
        let mut answer = CancelExecutionResponse::default();
        answer.set_state(state);
        Ok(Response::new(answer))
    }

    async fn retry_execution(
        &self,
        request: Request<RetryExecutionRequest>,
    ) -> Result<Response<RetryExecutionResponse>, Status> {
        check(&request)?;
        self.revise("retry", request.into_inner().execution_id)?;
        let mut answer = RetryExecutionResponse::default();
        answer.set_state(ExecutionState::Queued);
        Ok(Response::new(answer))
    }

    async fn discard_execution(
        &self,
        request: Request<DiscardExecutionRequest>,
    ) -> Result<Response<DiscardExecutionResponse>, Status> {
        check(&request)?;
        self.revise("discard", request.into_inner().execution_id)?;
        let mut answer = DiscardExecutionResponse::default();
        answer.set_state(ExecutionState::DeadLettered);
        Ok(Response::new(answer))
    }

    async fn watch_executions(
        &self,
        request: Request<WatchExecutionsRequest>,
    ) -> Result<Response<Self::WatchExecutionsStream>, Status> {
        check(&request)?;
        let mut script = self.0.lock().unwrap();
        script.watched = request.into_inner().execution_ids;
        let changes = script.watches.pop_front().unwrap_or_default();
        Ok(Response::new(Box::pin(tonic::codegen::tokio_stream::iter(
            changes,
        ))))
    }
}
