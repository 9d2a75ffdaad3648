//! The fleet API: any scheduler knows the workers, since each is connected to all.

use std::sync::Arc;
use std::time::Duration;

use domain::limits;
use proto::internal::v1 as internal;
use proto::v1::fleet_service_server::FleetService;
use proto::v1::{
    DrainWorkerRequest, DrainWorkerResponse, ListWorkersRequest, ListWorkersResponse, Worker,
};
use tonic::{Request, Response, Status};

use crate::cluster_view::ClusterView;
use crate::edge::admitted;
use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// The gateway's side of `watchwork.v1.FleetService`.
pub(crate) struct Fleet {
    cluster: ClusterView,
}

impl Fleet {
    pub(crate) fn new(cluster: ClusterView) -> Self {
        Self { cluster }
    }
}

#[tonic::async_trait]
impl FleetService for Fleet {
    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let (admitted, ListWorkersRequest {}) = admitted(request)?;
        let tenant = admitted.principal.tenant;
        let workers = self.cluster.ask_any(|link| workers(link, tenant)).await?;
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let (admitted, message) = admitted(request)?;
        check(&message)?;
        let request = internal::DrainWorkerRequest {
            tenant: admitted.principal.tenant,
            drain: Some(message),
        };
        let told = self
            .cluster
            .ask_any(|link| drain(link, request.clone()))
            .await?;
        Ok(Response::new(told))
    }
}

async fn workers(link: Arc<SchedulerLink>, tenant: u32) -> Result<Vec<Worker>, CallFailure> {
    let request = link.read(internal::ListWorkersRequest { tenant });
    let answer = link.client().list_workers(request).await;
    Ok(answer
        .map_err(|status| link.failure(&status))?
        .into_inner()
        .workers)
}

async fn drain(
    link: Arc<SchedulerLink>,
    request: internal::DrainWorkerRequest,
) -> Result<DrainWorkerResponse, CallFailure> {
    let answer = link.client().drain_worker(link.read(request)).await;
    let told = answer
        .map_err(|status| link.failure(&status))?
        .into_inner()
        .told;
    told.ok_or_else(|| link.unanswered("gave an empty answer"))
}

fn check(message: &DrainWorkerRequest) -> Result<(), Problem> {
    limits::check_name("worker_id", &message.worker_id)?;
    let Some(grace) = message.grace else {
        return Ok(());
    };
    let grace = Duration::try_from(grace);
    match grace.is_ok_and(|grace| grace <= limits::MAX_TIMEOUT) {
        true => Ok(()),
        false => Err(Problem::invalid("grace", "must be 0 s to 24 h")),
    }
}
