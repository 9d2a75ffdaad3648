//! The fleet API: each worker is connected to all schedulers, but one that has just begun, or that a worker can't
//! reach, doesn't know it. So all are asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::limits;
use proto::internal::v1 as internal;
use proto::v1::fleet_service_server::FleetService;
use proto::v1::{
    DrainWorkerRequest, DrainWorkerResponse, ListWorkersRequest, ListWorkersResponse, Worker,
    WorkerState,
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
        let known = self.cluster.ask_all(|link| workers(link, tenant)).await?;
        let workers = together(known);
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
            .ask_all(|link| drain(link, request.clone()))
            .await?;
        let running = told.iter().map(|told| told.running).max().unwrap_or(0);
        Ok(Response::new(DrainWorkerResponse { running }))
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

/// What schedulers know of the workers, by name: the word of whoever knows most processes of it, then of whom it says
/// that it leaves, then of whom it is connected to.
fn together(known: Vec<Vec<Worker>>) -> Vec<Worker> {
    let rank = |worker: &Worker| match worker.state() {
        WorkerState::Draining => 2,
        WorkerState::Working => 1,
        WorkerState::Disconnected | WorkerState::Unspecified => 0,
    };
    let says = |workers: &Vec<Worker>| (workers.len(), workers.iter().map(rank).max());
    let mut together: BTreeMap<String, Vec<Worker>> = BTreeMap::new();
    for known in known {
        let mut of_one: BTreeMap<String, Vec<Worker>> = BTreeMap::new();
        for worker in known {
            let named = of_one.entry(worker.worker_id.clone()).or_default();
            named.push(worker);
        }
        for (name, workers) in of_one {
            let others = together.entry(name).or_default();
            if says(&workers) > says(others) {
                *others = workers;
            }
        }
    }
    together.into_values().flatten().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, state: WorkerState) -> Worker {
        Worker {
            worker_id: name.to_owned(),
            state: state.into(),
            ..Worker::default()
        }
    }

    #[test]
    fn a_worker_is_there_while_any_scheduler_knows_it_and_leaves_once_one_says_so() {
        use WorkerState::{Disconnected, Draining, Working};
        let knows_all = vec![worker("a", Draining), worker("b", Disconnected)];
        let others = vec![
            worker("a", Working),
            worker("b", Working),
            worker("c", Working),
        ];
        let begins = Vec::new();
        let twice = vec![worker("c", Disconnected), worker("c", Working)];
        let all = together(vec![begins, others, knows_all, twice]);
        let all: Vec<_> = all.iter().map(|w| (&*w.worker_id, w.state())).collect();
        let expected = [
            ("a", Draining),
            ("b", Working),
            ("c", Disconnected),
            ("c", Working),
        ];
        assert_eq!(all, expected);
    }
}
