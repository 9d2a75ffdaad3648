//! The workers, as people see them and have them leave.

use std::sync::Arc;

use proto::internal::v1::{
    DrainWorkerRequest, DrainWorkerResponse, ListWorkersRequest, ListWorkersResponse,
};
use proto::v1::{self, Drain, Worker, WorkerState};
use tonic::Status;

use super::Internal;
use crate::session::Session;

impl Internal {
    pub(super) fn workers(&self, request: &ListWorkersRequest) -> ListWorkersResponse {
        let sessions = self.serving(request.tenant);
        let mut workers: Vec<Worker> = sessions.map(|session| describe(&session)).collect();
        workers.sort_by(|one, other| one.worker_id.cmp(&other.worker_id));
        ListWorkersResponse { workers }
    }

    /// Tells every process of this name that is connected here.
    pub(super) fn drain(&self, request: DrainWorkerRequest) -> Result<DrainWorkerResponse, Status> {
        let drain = request
            .drain
            .ok_or_else(|| Status::invalid_argument("drain is missing"))?;
        let named = |session: &Arc<Session>| {
            *session.worker_id == *drain.worker_id && session.is_connected()
        };
        let meant: Vec<_> = self.serving(request.tenant).filter(named).collect();
        if meant.is_empty() {
            let message = format!("no worker {:?} is connected", drain.worker_id);
            return Err(Status::not_found(message));
        }
        let grace_us = drain.grace.map(grace_us).transpose()?;
        let mut running = 0;
        for session in meant {
            session.drain(Drain { grace_us });
            running += session.heard().running;
            tracing::info!(
                event = "worker_drain_asked",
                worker_id = &*session.worker_id,
                grace_us,
                "somebody wants a worker to leave"
            );
        }
        let told = Some(v1::DrainWorkerResponse { running });
        Ok(DrainWorkerResponse { told })
    }

    /// The workers with a lease that serve a tenant.
    fn serving(&self, tenant: u32) -> impl Iterator<Item = Arc<Session>> {
        let serves = move |session: &Arc<Session>| {
            let of = u32::try_from(session.capabilities.tenant).unwrap_or(0);
            !session.is_over() && (of == 0 || of == tenant)
        };
        self.shared.sessions.all().into_iter().filter(serves)
    }
}

fn describe(session: &Session) -> Worker {
    let heard = session.heard();
    let state = match (session.is_connected(), heard.draining) {
        (false, _) => WorkerState::Disconnected,
        (true, true) => WorkerState::Draining,
        (true, false) => WorkerState::Working,
    };
    let sorted = |names: &rustc_hash::FxHashSet<String>| {
        let mut names: Vec<String> = names.iter().cloned().collect();
        names.sort_unstable();
        names
    };
    Worker {
        worker_id: session.worker_id.to_string(),
        pool: session.profile.pool.clone(),
        state: state.into(),
        slots: session.profile.slots,
        running: heard.running,
        job_types: sorted(&session.capabilities.types),
        queues: sorted(&session.capabilities.queues),
        version: session.profile.version.clone(),
        address: session.address(),
        heard_at: Some(heard.at.into()),
    }
}

fn grace_us(grace: prost_types::Duration) -> Result<u64, Status> {
    let grace = std::time::Duration::try_from(grace);
    let grace = grace.map_err(|_| Status::invalid_argument("a grace can't be negative"))?;
    Ok(u64::try_from(grace.as_micros()).unwrap_or(u64::MAX))
}
