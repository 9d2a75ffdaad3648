use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use proto::internal::v1::scheduler_service_server::SchedulerService;
use proto::internal::v1::{
    CancelExecutionRequest, CancelExecutionResponse, DrainWorkerRequest, DrainWorkerResponse,
    GetExecutionRequest, GetExecutionResponse, ListExecutionsRequest, ListExecutionsResponse,
    ListOpenRequest, ListOpenResponse, ListWorkersRequest, ListWorkersResponse, LocateRequest,
    LocateResponse, LookForLanesRequest, LookForLanesResponse, ResolveKeyRequest,
    ResolveKeyResponse, ResolveQueueRequest, ResolveQueueResponse, ReviseExecutionRequest,
    ReviseExecutionResponse, SubmitRequest, SubmitResponse, WatchClusterRequest,
    WatchClusterResponse, WatchExecutionsRequest, WatchExecutionsResponse,
};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{OUTAGE, trouble};
use crate::credentials::check_service;
use crate::peers::Peers;
use crate::shared::{Groups, Shared};

/// What gateways and peers are served.
pub(crate) struct Internal {
    pub(super) shared: Arc<Shared>,
    pub(super) groups: Groups,
    pub(super) peers: Arc<Peers>,
    service_token: String,
    shutdown: CancellationToken,
}

impl Internal {
    pub(crate) fn new(
        shared: Arc<Shared>,
        groups: Groups,
        peers: Arc<Peers>,
        service_token: String,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            shared,
            groups,
            peers,
            service_token,
            shutdown,
        }
    }

    fn admit<T>(&self, request: Request<T>) -> Result<T, Status> {
        check_service(&self.service_token, request.metadata())?;
        Ok(request.into_inner())
    }

    /// Admits a call that needs the database: who hasn't reached it for a whole lease knows nothing that is
    /// still true, and says so at once.
    fn check<T>(&self, request: Request<T>) -> Result<T, Status> {
        let message = self.admit(request)?;
        match self.shared.deadline.has_passed() {
            true => Err(Status::unavailable(OUTAGE)),
            false => Ok(message),
        }
    }
}

/// Ends when this scheduler has not reached the database for a whole lease: who follows its view of the
/// cluster had better follow another's.
async fn out_of_touch(shared: Arc<Shared>) {
    while !shared.deadline.has_passed() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SchedulerService for Internal {
    type WatchClusterStream = Streaming<WatchClusterResponse>;
    type WatchExecutionsStream = Streaming<WatchExecutionsResponse>;

    async fn watch_cluster(
        &self,
        request: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        self.check(request)?;
        let views = WatchStream::new(self.shared.view.subscribe());
        let views = views
            .map(|view| {
                Ok(WatchClusterResponse {
                    view: Some((*view).clone()),
                })
            })
            .take_until(self.shutdown.clone().cancelled_owned())
            .take_until(out_of_touch(Arc::clone(&self.shared)));
        Ok(Response::new(Box::pin(views)))
    }

    async fn resolve_key(
        &self,
        request: Request<ResolveKeyRequest>,
    ) -> Result<Response<ResolveKeyResponse>, Status> {
        let ResolveKeyRequest { key_id } = self.check(request)?;
        let key = self
            .shared
            .catalog
            .key(&key_id)
            .await
            .map_err(|error| trouble(&error))?;
        let key = key.ok_or_else(|| Status::not_found("there is no such key"))?;
        let tenant_name = match key.tenant {
            0 => String::new(),
            number => {
                let name = self.shared.catalog.tenant(number).await;
                let name = name.map_err(|error| trouble(&error))?;
                name.ok_or_else(|| Status::not_found("the key's tenant is gone"))?
                    .to_string()
            }
        };
        Ok(Response::new(ResolveKeyResponse {
            secret_sha256: Bytes::copy_from_slice(&key.secret_sha256),
            tenant: u32::try_from(key.tenant).unwrap_or(0),
            tenant_name,
            scopes: key.scopes.iter().copied().map(i32::from).collect(),
        }))
    }

    async fn resolve_queue(
        &self,
        request: Request<ResolveQueueRequest>,
    ) -> Result<Response<ResolveQueueResponse>, Status> {
        let ResolveQueueRequest { tenant, queue } = self.check(request)?;
        let tenant = i32::try_from(tenant).unwrap_or(0);
        let found = self.shared.catalog.queue_by_name(tenant, &queue).await;
        let found = found.map_err(|error| trouble(&error))?;
        let found =
            found.ok_or_else(|| Status::not_found(format!("there is no queue {queue:?}")))?;
        Ok(Response::new(ResolveQueueResponse {
            queue: u32::try_from(found.number).unwrap_or(0),
            lanes: found.lanes.iter().map(|lane| u32::from(lane.0)).collect(),
        }))
    }

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let request = self.admit(request)?;
        Ok(Response::new(self.accept(request).await))
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        let request = self.check(request)?;
        self.read(request).await.map(Response::new)
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        let request = self.check(request)?;
        self.cancel(request).await.map(Response::new)
    }

    async fn revise_execution(
        &self,
        request: Request<ReviseExecutionRequest>,
    ) -> Result<Response<ReviseExecutionResponse>, Status> {
        let request = self.check(request)?;
        self.revise(request).await.map(Response::new)
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let request = self.check(request)?;
        self.list(request).await.map(Response::new)
    }

    async fn list_open(
        &self,
        request: Request<ListOpenRequest>,
    ) -> Result<Response<ListOpenResponse>, Status> {
        let request = self.check(request)?;
        self.tell_open(request).await.map(Response::new)
    }

    async fn locate(
        &self,
        request: Request<LocateRequest>,
    ) -> Result<Response<LocateResponse>, Status> {
        let request = self.check(request)?;
        self.tell_where(request).await.map(Response::new)
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let request = self.admit(request)?;
        Ok(Response::new(self.workers(&request)))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let request = self.admit(request)?;
        self.drain(request).map(Response::new)
    }

    async fn look_for_lanes(
        &self,
        request: Request<LookForLanesRequest>,
    ) -> Result<Response<LookForLanesResponse>, Status> {
        let LookForLanesRequest {} = self.admit(request)?;
        self.shared.lanes_freed.notify_one();
        Ok(Response::new(LookForLanesResponse {}))
    }

    async fn watch_executions(
        &self,
        request: Request<WatchExecutionsRequest>,
    ) -> Result<Response<Self::WatchExecutionsStream>, Status> {
        let request = self.check(request)?;
        let changes = self.watch(request).await?;
        let changes = changes.take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(Box::pin(changes)))
    }
}
