use std::sync::Arc;

use futures::StreamExt;
use proto::v1::worker_service_server::WorkerService;
use proto::v1::{Hello, WorkRequest, WorkResponse, work_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::work_stream::WorkStream;
use crate::credentials::check_worker;
use crate::session::UNREAD;
use crate::shared::{Groups, Shared};

/// What workers are served.
pub(crate) struct WorkerApi {
    shared: Arc<Shared>,
    groups: Groups,
    shutdown: CancellationToken,
}

impl WorkerApi {
    pub(crate) fn new(shared: Arc<Shared>, groups: Groups, shutdown: CancellationToken) -> Self {
        Self {
            shared,
            groups,
            shutdown,
        }
    }
}

type Responses = ReceiverStream<Result<WorkResponse, Status>>;

#[tonic::async_trait]
impl WorkerService for WorkerApi {
    type WorkStream = futures::stream::BoxStream<'static, Result<WorkResponse, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let tenant = check_worker(&self.shared.catalog, &request).await?;
        let address = request.remote_addr();
        let address = address.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
        let mut requests = request.into_inner();
        let hello = hello_of(requests.message().await?)?;
        let (outbound, responses) = mpsc::channel(UNREAD);
        let stream = WorkStream::open(
            Arc::clone(&self.shared),
            self.groups.clone(),
            (tenant, hello),
            outbound,
        )
        .await?;
        stream.introduce(address);
        tokio::spawn(stream.serve(requests, self.shutdown.clone()));
        let responses: Responses = ReceiverStream::new(responses);
        let ended = self.shutdown.clone().cancelled_owned();
        Ok(Response::new(responses.take_until(ended).boxed()))
    }
}

fn hello_of(first: Option<WorkRequest>) -> Result<Hello, Status> {
    match first.and_then(|request| request.message) {
        Some(work_request::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument(
            "a worker's first message is Hello",
        )),
    }
}
