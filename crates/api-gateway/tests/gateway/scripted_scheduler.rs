//! A scheduler that does what a test tells it, on a runtime of its own, so that it can be killed with
//! all its connections.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use proto::internal::v1::scheduler_service_server::{SchedulerService, SchedulerServiceServer};
use proto::internal::v1::*;
use proto::v1::submit_verdict::Verdict;
use proto::v1::{
    ClusterView, Execution, ExecutionState, ExecutionSummary, Refusal, SchedulerAddress,
    SubmitVerdict, Worker,
};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

pub(crate) const SERVICE_TOKEN: &str = "service-token";
pub(crate) const SECRET: &str = "0123456789abcdefghijklmnopqrstuvwxyz";
/// Key ids by what they may do.
pub(crate) const SUBMIT_AND_READ: &str = "0000000000000001";
pub(crate) const READ_ONLY: &str = "0000000000000002";
pub(crate) const WORKER: &str = "0000000000000003";
pub(crate) const OPERATOR: &str = "0000000000000004";
/// One of another tenant that may do as much.
pub(crate) const NEIGHBOUR: &str = "0000000000000005";
pub(crate) const TENANT: u32 = 7;
pub(crate) const QUEUE: u32 = 3;
/// An idempotency key that was used before, for the same and for something else.
pub(crate) const KNOWN_KEY: &str = "known";
pub(crate) const OTHERS_KEY: &str = "others";

/// A watch that a gateway opened here: what it asked, and where the changes go.
pub(crate) type OpenedWatch = (
    WatchExecutionsRequest,
    mpsc::Sender<Result<WatchExecutionsResponse, Status>>,
);

/// The test's side of it.
pub(crate) struct ScriptedScheduler {
    pub(crate) address: String,
    /// Forwards as they come; each waits for a permit of `gate` before it is answered.
    pub(crate) forwards: mpsc::UnboundedReceiver<SubmitRequest>,
    pub(crate) watches: mpsc::UnboundedReceiver<OpenedWatch>,
    /// Cancellations as they come; each waits for a permit of `gate` before it is answered.
    pub(crate) cancels: mpsc::UnboundedReceiver<CancelExecutionRequest>,
    pub(crate) revisions: mpsc::UnboundedReceiver<ReviseExecutionRequest>,
    pub(crate) lists: mpsc::UnboundedReceiver<ListExecutionsRequest>,
    pub(crate) gate: Arc<Semaphore>,
    /// What the next forward, cancellation or list is answered with if it isn't done.
    pub(crate) failure: Arc<Mutex<Option<Status>>>,
    view: watch::Sender<ClusterView>,
    runtime: Option<Runtime>,
}

struct Script {
    forwards: mpsc::UnboundedSender<SubmitRequest>,
    watches: mpsc::UnboundedSender<OpenedWatch>,
    cancels: mpsc::UnboundedSender<CancelExecutionRequest>,
    revisions: mpsc::UnboundedSender<ReviseExecutionRequest>,
    lists: mpsc::UnboundedSender<ListExecutionsRequest>,
    gate: Arc<Semaphore>,
    failure: Arc<Mutex<Option<Status>>>,
    view: watch::Receiver<ClusterView>,
}

/// A view with these schedulers and owners of lanes: 1 + the scheduler's place, 0 for none.
pub(crate) fn view(schedulers: &[(&str, &str)], lane_owners: &[u32]) -> ClusterView {
    let address = |(id, address): &(&str, &str)| SchedulerAddress {
        scheduler_id: (*id).to_owned(),
        address: (*address).to_owned(),
    };
    ClusterView {
        schedulers: schedulers.iter().map(address).collect(),
        lane_owners: lane_owners.to_vec(),
        lane_epochs: Vec::new(),
    }
}

impl ScriptedScheduler {
    /// It owns lanes 0 and 1, and answers forwards at once.
    pub(crate) fn start(id: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (forwards_in, forwards) = mpsc::unbounded_channel();
        let (watches_in, watches) = mpsc::unbounded_channel();
        let (cancels_in, cancels) = mpsc::unbounded_channel();
        let (revisions_in, revisions) = mpsc::unbounded_channel();
        let (lists_in, lists) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2));
        let failure = Arc::default();
        let view = watch::Sender::new(view(&[(id, &address)], &[1, 1]));
        let script = Script {
            forwards: forwards_in,
            watches: watches_in,
            cancels: cancels_in,
            revisions: revisions_in,
            lists: lists_in,
            gate: Arc::clone(&gate),
            failure: Arc::clone(&failure),
            view: view.subscribe(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(serve(listener, script));
        Self {
            address,
            forwards,
            watches,
            cancels,
            revisions,
            lists,
            gate,
            failure,
            view,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn say_view(&self, view: ClusterView) {
        self.view.send_replace(view);
    }

    /// From now on forwards and cancellations wait for permits.
    pub(crate) fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// It is gone, with its connections and its port.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for ScriptedScheduler {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(listener: std::net::TcpListener, script: Script) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let service = SchedulerServiceServer::new(script).max_decoding_message_size(16 << 20);
    let service = InterceptedService::new(service, |request: Request<()>| {
        let token = service::bearer(request.metadata());
        let is_gateway = token == Some(SERVICE_TOKEN);
        is_gateway
            .then_some(request)
            .ok_or_else(|| Status::unauthenticated("no gateway"))
    });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    service::server()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

/// The port that nobody listens on any more.
pub(crate) fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    format!("http://{address}")
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SchedulerService for Script {
    type WatchClusterStream = Answers<WatchClusterResponse>;
    type WatchExecutionsStream = Answers<WatchExecutionsResponse>;

    async fn watch_cluster(
        &self,
        _: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let views = WatchStream::new(self.view.clone());
        let views = views.map(|view| Ok(WatchClusterResponse { view: Some(view) }));
        Ok(Response::new(Box::pin(views)))
    }

    async fn resolve_key(
        &self,
        request: Request<ResolveKeyRequest>,
    ) -> Result<Response<ResolveKeyResponse>, Status> {
        let (tenant, scopes) = match request.into_inner().key_id.as_str() {
            SUBMIT_AND_READ => (TENANT, vec![KeyScope::Submit as i32, KeyScope::Read as i32]),
            NEIGHBOUR => (TENANT + 1, vec![KeyScope::Submit as i32]),
            READ_ONLY => (TENANT, vec![KeyScope::Read as i32]),
            OPERATOR => (TENANT, vec![KeyScope::Operate as i32]),
            WORKER => (0, vec![KeyScope::Worker as i32, KeyScope::Submit as i32]),
            _ => return Err(Status::not_found("no such key")),
        };
        let secret_sha256 = Bytes::copy_from_slice(&Sha256::digest(SECRET));
        let tenant_name = String::new();
        Ok(Response::new(ResolveKeyResponse {
            secret_sha256,
            tenant,
            tenant_name,
            scopes,
        }))
    }

    async fn resolve_queue(
        &self,
        request: Request<ResolveQueueRequest>,
    ) -> Result<Response<ResolveQueueResponse>, Status> {
        let lanes = match request.into_inner().queue.as_str() {
            "default" => vec![0],
            "wide" => vec![0, 1],
            _ => return Err(Status::not_found("no such queue")),
        };
        Ok(Response::new(ResolveQueueResponse {
            queue: QUEUE,
            lanes,
        }))
    }

    /// Each item's verdict is its payload, as if that were its id, but for keys that were used before.
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let request = request.into_inner();
        let verdicts = request.submissions.iter().map(verdict).collect();
        // A test that is over doesn't read its forwards any more.
        let _ = self.forwards.send(request);
        self.gate.acquire().await.unwrap().forget();
        match self.failure.lock().unwrap().take() {
            Some(failure) => Err(failure),
            None => Ok(Response::new(SubmitResponse { verdicts })),
        }
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        let request = request.into_inner();
        let id = domain::ExecutionId::from_slice(&request.execution_id).unwrap();
        if request.tenant != TENANT || id.seq() == 0 {
            return Err(Status::not_found("no such execution"));
        }
        let execution = Execution {
            execution_id: id.to_string(),
            ..Execution::default()
        };
        Ok(Response::new(GetExecutionResponse {
            execution: Some(execution),
        }))
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let _ = self.lists.send(request.into_inner());
        if let Some(failure) = self.failure.lock().unwrap().take() {
            return Err(failure);
        }
        let page = proto::v1::ListExecutionsResponse {
            executions: vec![ExecutionSummary::default()],
            next_page_token: "more".to_owned(),
        };
        Ok(Response::new(ListExecutionsResponse { page: Some(page) }))
    }

    async fn list_open(
        &self,
        _request: Request<ListOpenRequest>,
    ) -> Result<Response<ListOpenResponse>, Status> {
        Err(Status::unimplemented("only schedulers ask this"))
    }

    async fn locate(
        &self,
        _request: Request<LocateRequest>,
    ) -> Result<Response<LocateResponse>, Status> {
        Err(Status::unimplemented("only schedulers ask this"))
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        let _ = self.cancels.send(request.into_inner());
        self.gate.acquire().await.unwrap().forget();
        if let Some(failure) = self.failure.lock().unwrap().take() {
            return Err(failure);
        }
        let mut outcome = proto::v1::CancelExecutionResponse::default();
        outcome.set_state(ExecutionState::Running);
        let outcome = Some(outcome);
        Ok(Response::new(CancelExecutionResponse { outcome }))
    }

    async fn revise_execution(
        &self,
        request: Request<ReviseExecutionRequest>,
    ) -> Result<Response<ReviseExecutionResponse>, Status> {
        let request = request.into_inner();
        let state = match request.revision() {
            Revision::Retry => ExecutionState::Queued,
            _ => ExecutionState::DeadLettered,
        };
        let _ = self.revisions.send(request);
        if let Some(failure) = self.failure.lock().unwrap().take() {
            return Err(failure);
        }
        let mut answer = ReviseExecutionResponse::default();
        answer.set_state(state);
        Ok(Response::new(answer))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let worker = Worker {
            worker_id: format!("of-{}", request.into_inner().tenant),
            ..Worker::default()
        };
        let workers = vec![worker];
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    /// There is one worker, called `w`.
    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let drain = request.into_inner().drain.unwrap();
        if drain.worker_id != "w" {
            return Err(Status::not_found("no such worker"));
        }
        // What it is told comes back as what it runs.
        let running = drain
            .grace
            .map_or(0, |grace| u32::try_from(grace.seconds).unwrap());
        let told = Some(proto::v1::DrainWorkerResponse { running });
        Ok(Response::new(DrainWorkerResponse { told }))
    }

    async fn look_for_lanes(
        &self,
        _request: Request<LookForLanesRequest>,
    ) -> Result<Response<LookForLanesResponse>, Status> {
        Err(Status::unimplemented("only schedulers ask this"))
    }

    async fn watch_executions(
        &self,
        request: Request<WatchExecutionsRequest>,
    ) -> Result<Response<Self::WatchExecutionsStream>, Status> {
        let (changes_in, changes) = mpsc::channel(16);
        let _ = self.watches.send((request.into_inner(), changes_in));
        Ok(Response::new(Box::pin(ReceiverStream::new(changes))))
    }
}

fn verdict(item: &ForwardedSubmission) -> SubmitVerdict {
    let submission = item.submission.as_ref().unwrap();
    let conflict = Refusal {
        code: Code::AlreadyExists as i32,
        field: "idempotency_key".to_owned(),
        message: "it was used for something else".to_owned(),
        retry_after: None,
    };
    let id = String::from_utf8(submission.payload.to_vec()).unwrap();
    let verdict = match submission.idempotency_key.as_str() {
        OTHERS_KEY => Verdict::Refusal(conflict),
        _ => Verdict::ExecutionId(id),
    };
    SubmitVerdict {
        verdict: Some(verdict),
        duplicate: submission.idempotency_key == KNOWN_KEY,
    }
}
