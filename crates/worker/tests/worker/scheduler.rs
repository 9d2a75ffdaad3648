//! A scheduler that says what the test tells it to.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domain::{ExecutionId, IdKey, LaneId, Micros};
use futures::Stream;
use proto::v1;
use proto::v1::work_request::Message as Request;
use proto::v1::work_response::Message as Response;
use proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

/// Nothing takes this long unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A server that hands each stream to the test.
pub(crate) struct Scheduler {
    pub(crate) id: String,
    pub(crate) address: String,
    streams: mpsc::UnboundedReceiver<Conversation>,
    _server: AbortOnDropHandle<()>,
}

/// One worker's stream. Beats are answered by themselves, unless that is switched off. Dropped, the
/// stream breaks.
pub(crate) struct Conversation {
    pub(crate) hello: v1::Hello,
    pub(crate) authorization: String,
    requests: mpsc::UnboundedReceiver<Request>,
    responses: mpsc::Sender<Result<v1::WorkResponse, Status>>,
    answering: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
    _pump: AbortOnDropHandle<()>,
}

impl Scheduler {
    pub(crate) async fn start(id: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, streams) = mpsc::unbounded_channel();
        let service = WorkerServiceServer::new(Service { streams: sender });
        let server = service::server()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        let _server = AbortOnDropHandle::new(server);
        Self {
            id: id.to_owned(),
            address,
            streams,
            _server,
        }
    }

    /// The next stream of this test's worker; its Hello is read, Welcome is not said yet. Workers of
    /// tests that are over still look for their schedulers for a while, and may find this one at the
    /// port of theirs.
    pub(crate) async fn accept(&mut self) -> Conversation {
        loop {
            let next = tokio::time::timeout(SOON, self.streams.recv()).await;
            let conversation = next.expect("nobody came").unwrap();
            if conversation.hello.worker_id == worker_id() {
                return conversation;
            }
        }
    }

    /// Accepts a worker and welcomes it to a cluster of this scheduler alone, which owns every lane.
    pub(crate) async fn welcome(&mut self, lease: Duration) -> Conversation {
        let view = view(&[self], &[1; 8]);
        self.welcome_to(lease, view).await
    }

    /// The same with a view of its own.
    pub(crate) async fn welcome_to(
        &mut self,
        lease: Duration,
        view: v1::ClusterView,
    ) -> Conversation {
        let conversation = self.accept().await;
        let lease_us = u64::try_from(lease.as_micros()).unwrap();
        let welcome = v1::Welcome {
            scheduler_id: self.id.clone(),
            lease_us,
            heartbeat_us: lease_us / 10,
            cluster_view: Some(view),
        };
        conversation.say(Response::Welcome(welcome)).await;
        conversation
    }

    pub(crate) fn seen(&self) -> v1::SchedulerAddress {
        v1::SchedulerAddress {
            scheduler_id: self.id.clone(),
            address: self.address.clone(),
        }
    }
}

/// What this test's worker is called. Each test has a thread of its name.
pub(crate) fn worker_id() -> String {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", ".");
    format!("{}.{test}", std::process::id())
}

/// A view of these schedulers; owners as on the wire, from 1.
pub(crate) fn view(cluster: &[&Scheduler], lane_owners: &[u32]) -> v1::ClusterView {
    let schedulers = cluster.iter().map(|scheduler| scheduler.seen()).collect();
    v1::ClusterView {
        schedulers,
        lane_owners: lane_owners.to_vec(),
        lane_epochs: Vec::new(),
    }
}

impl Conversation {
    pub(crate) async fn say(&self, message: Response) {
        // A stream that broke meanwhile is what some tests are about.
        let _ = self
            .responses
            .send(Ok(v1::WorkResponse {
                message: Some(message),
            }))
            .await;
    }

    pub(crate) async fn dispatch(&self, tasks: impl IntoIterator<Item = v1::Task>) {
        let tasks = tasks.into_iter().collect();
        self.say(Response::Dispatch(v1::Dispatch { tasks })).await;
    }

    pub(crate) async fn cancel(&self, held: impl IntoIterator<Item = v1::Held>) {
        let held = held.into_iter().collect();
        self.say(Response::Cancel(v1::Cancel { held })).await;
    }

    pub(crate) async fn take_back(&self, held: impl IntoIterator<Item = v1::Held>) {
        let held = held.into_iter().collect();
        self.say(Response::TakeBack(v1::TakeBack { held })).await;
    }

    pub(crate) async fn demand(&self, tasks: u32) {
        let demand = v1::Demand {
            tasks,
            ..v1::Demand::default()
        };
        self.say(Response::Demand(demand)).await;
    }

    /// Suspects wait, or don't; and so far the permit for them has been taken in.
    pub(crate) async fn suspects(&self, wait: bool, permit: u64) {
        let demand = v1::Demand {
            tasks: 1,
            suspects: wait,
            permit,
        };
        self.say(Response::Demand(demand)).await;
    }

    /// Reads on until the permit for suspects is told so.
    pub(crate) async fn permit(&mut self, permit: u64) {
        loop {
            if let Request::Window(window) = self.next().await.expect("the worker left")
                && window.permit == permit
            {
                return;
            }
        }
    }

    pub(crate) async fn settle(&self, result: &v1::Result, verdict: v1::SettlementVerdict) {
        let settlement = v1::Settlement {
            execution_id: result.execution_id.clone(),
            fence: result.fence,
            verdict: verdict.into(),
        };
        self.say(Response::Settlements(v1::Settlements {
            settlements: vec![settlement],
        }))
        .await;
    }

    /// The next message that is no heartbeat; `None` when the worker has closed the stream.
    pub(crate) async fn next(&mut self) -> Option<Request> {
        tokio::time::timeout(SOON, self.requests.recv())
            .await
            .expect("the worker said nothing")
    }

    /// The next message, as an owner of lanes hears it that the worker didn't know for that.
    pub(crate) async fn told_what_is_held(&mut self) {
        let told = self.next().await;
        assert!(matches!(told, Some(Request::Holding(_))), "{told:?}");
    }

    /// The next result, what comes before it passed over.
    pub(crate) async fn result(&mut self) -> v1::Result {
        self.results(1).await.remove(0)
    }

    /// The next results, at least as many.
    pub(crate) async fn results(&mut self, count: usize) -> Vec<v1::Result> {
        let mut results = Vec::new();
        while results.len() < count {
            match self.next().await.expect("the worker left") {
                Request::Results(more) => results.extend(more.results),
                _ => continue,
            }
        }
        results
    }

    /// The next window, what comes before it passed over.
    pub(crate) async fn window(&mut self) -> u32 {
        loop {
            if let Request::Window(window) = self.next().await.expect("the worker left") {
                return window.tasks;
            }
        }
    }

    /// What the worker says until it closes the stream.
    pub(crate) async fn rest(&mut self) -> Vec<Request> {
        let mut rest = Vec::new();
        while let Some(request) = self.next().await {
            rest.push(request);
        }
        rest
    }

    pub(crate) fn stop_answering(&self) {
        self.answering.store(false, Ordering::SeqCst);
    }

    /// Returns after so many more beats.
    pub(crate) async fn beats(&self, count: u64) {
        let until = self.beats.load(Ordering::SeqCst) + count;
        let enough = async {
            while self.beats.load(Ordering::SeqCst) < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, enough)
            .await
            .expect("the worker's heart stopped");
    }
}

/// A task of an execution that is told by its lane and number.
pub(crate) fn task(lane: u16, number: u64, job_type: &str, payload: &str) -> v1::Task {
    v1::Task {
        execution_id: Bytes::copy_from_slice(execution(lane, number).as_bytes()),
        fence: 7,
        attempt: 1,
        tenant: "acme".to_owned(),
        job_type: job_type.to_owned(),
        queue: "default".to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        correlation_id: "order-1".to_owned(),
        timeout_us: 60_000_000,
        ..v1::Task::default()
    }
}

/// The right to a task.
pub(crate) fn held(task: &v1::Task) -> v1::Held {
    v1::Held {
        execution_id: task.execution_id.clone(),
        fence: task.fence,
        lane_epoch: 0,
    }
}

pub(crate) fn execution(lane: u16, number: u64) -> ExecutionId {
    let home = Micros(1_790_000_000_000_000);
    ExecutionId::new(LaneId(lane), number, home, &IdKey::new([1; 16]))
}

struct Service {
    streams: mpsc::UnboundedSender<Conversation>,
}

#[tonic::async_trait]
impl WorkerService for Service {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<v1::WorkResponse, Status>> + Send>>;

    async fn work(
        &self,
        request: tonic::Request<Streaming<v1::WorkRequest>>,
    ) -> Result<tonic::Response<Self::WorkStream>, Status> {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization
            .map_or("", |value| value.to_str().unwrap())
            .to_owned();
        let (responses, outgoing) = mpsc::channel(16);
        let streams = self.streams.clone();
        let incoming = request.into_inner();
        tokio::spawn(converse(incoming, responses, authorization, streams));
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(
            outgoing,
        ))))
    }
}

async fn converse(
    mut incoming: Streaming<v1::WorkRequest>,
    responses: mpsc::Sender<Result<v1::WorkResponse, Status>>,
    authorization: String,
    streams: mpsc::UnboundedSender<Conversation>,
) {
    let Ok(Some(first)) = incoming.message().await else {
        return;
    };
    let Some(Request::Hello(hello)) = first.message else {
        panic!("no Hello but {first:?}")
    };
    let (requests_out, requests) = mpsc::unbounded_channel();
    let (answering, beats) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let pump = pump(
        incoming,
        requests_out,
        responses.clone(),
        Arc::clone(&answering),
        Arc::clone(&beats),
    );
    let _pump = AbortOnDropHandle::new(tokio::spawn(pump));
    let conversation = Conversation {
        hello,
        authorization,
        requests,
        responses,
        answering,
        beats,
        _pump,
    };
    let _ = streams.send(conversation);
}

async fn pump(
    mut incoming: Streaming<v1::WorkRequest>,
    requests: mpsc::UnboundedSender<Request>,
    responses: mpsc::Sender<Result<v1::WorkResponse, Status>>,
    answering: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
) {
    while let Ok(Some(request)) = incoming.message().await {
        match request.message.unwrap() {
            Request::Heartbeat(beat) if answering.load(Ordering::SeqCst) => {
                beats.fetch_add(1, Ordering::SeqCst);
                let answer = Response::HeartbeatAnswer(v1::HeartbeatAnswer {
                    number: beat.number,
                });
                let _ = responses
                    .send(Ok(v1::WorkResponse {
                        message: Some(answer),
                    }))
                    .await;
            }
            Request::Heartbeat(_) => {}
            other => {
                let _ = requests.send(other);
            }
        }
    }
}
