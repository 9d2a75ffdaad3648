use std::sync::Arc;

use domain::{ExecutionId, LaneId};
use proto::internal::v1::{GetExecutionRequest, GetExecutionResponse};
use store::{ExecutionPlace, StoredCheckpoint, StoredExecution};
use tokio::sync::oneshot;
use tonic::Status;

use super::describe;
use super::scheduler_service::Internal;
use super::trouble;
use crate::group::Input;

impl Internal {
    /// One execution: what the owner's memory says first, then its rows; the higher fence wins.
    pub(crate) async fn read(
        &self,
        request: GetExecutionRequest,
    ) -> Result<GetExecutionResponse, Status> {
        let id = self.genuine(&request.execution_id)?;
        let (reply, memory) = oneshot::channel();
        self.groups.of(id.lane()).send(Input::Ask(id, reply)).await;
        match memory.await.ok().flatten() {
            Some(memory) => {
                let stored = self.stored(id, request.tenant).await?;
                let begun = !stored.attempts.is_empty() || memory.is_running();
                let checkpoint = match begun {
                    true => self.last_checkpoint(id, stored.head.tenant).await?,
                    false => None,
                };
                let rows = (&stored, checkpoint.as_ref());
                let execution = Some(describe::execution(id, rows, &memory, &self.shared).await);
                Ok(GetExecutionResponse { execution })
            }
            None => self.read_elsewhere(id, request).await,
        }
    }

    async fn read_elsewhere(
        &self,
        id: ExecutionId,
        request: GetExecutionRequest,
    ) -> Result<GetExecutionResponse, Status> {
        let address = self.elsewhere(id);
        let Some(address) = address.filter(|_| !request.forwarded) else {
            return Err(no_owner(id));
        };
        let request = GetExecutionRequest {
            forwarded: true,
            ..request
        };
        let mut client = self.peers.client(&address)?;
        Ok(client
            .get_execution(self.peers.request(request))
            .await?
            .into_inner())
    }

    /// Where the owner of its lane is reached, if that is another scheduler.
    pub(super) fn elsewhere(&self, id: ExecutionId) -> Option<String> {
        self.owner_elsewhere(id.lane())
    }

    /// Where the owner of a lane is reached, if that is another scheduler.
    pub(super) fn owner_elsewhere(&self, lane: LaneId) -> Option<String> {
        let view = self.shared.view.borrow();
        let owner = *view.lane_owners.get(usize::from(lane.0))?;
        let scheduler = view.schedulers.get(owner.checked_sub(1)? as usize)?;
        let other = scheduler.scheduler_id != self.shared.scheduler_id;
        other.then(|| scheduler.address.clone())
    }

    /// The id, if this installation made it.
    pub(super) fn genuine(&self, bytes: &[u8]) -> Result<ExecutionId, Status> {
        let id = ExecutionId::from_slice(bytes)
            .ok_or_else(|| Status::invalid_argument("an execution's id has 16 bytes"))?;
        match id.is_genuine(&self.shared.id_key) {
            true => Ok(id),
            false => Err(not_found(id)),
        }
    }

    /// The last that its handler saved.
    async fn last_checkpoint(
        &self,
        id: ExecutionId,
        tenant: i32,
    ) -> Result<Option<StoredCheckpoint>, Status> {
        let windows = Arc::clone(&self.shared.windows.borrow());
        let database = &self.shared.database;
        let last = database.last_checkpoint(&windows, tenant, place(id)).await;
        last.map_err(|error| trouble(&error))
    }

    /// The execution's rows, if they are the tenant's.
    pub(super) async fn stored(
        &self,
        id: ExecutionId,
        tenant: u32,
    ) -> Result<StoredExecution, Status> {
        let number = i32::try_from(tenant).map_err(|_| not_found(id))?;
        let windows = Arc::clone(&self.shared.windows.borrow());
        let stored = self
            .shared
            .database
            .execution(&windows, number, place(id))
            .await;
        let stored = stored.map_err(|error| trouble(&error))?;
        let own = |stored: &StoredExecution| stored.head.tenant == number;
        stored.filter(own).ok_or_else(|| not_found(id))
    }
}

fn place(id: ExecutionId) -> ExecutionPlace {
    let (lane, seq, home) = (id.lane(), id.seq(), id.home());
    ExecutionPlace { lane, seq, home }
}

pub(super) fn not_found(id: ExecutionId) -> Status {
    Status::not_found(format!("there is no execution {id}"))
}

pub(super) fn no_owner(id: ExecutionId) -> Status {
    let lane = id.lane();
    Status::unavailable(format!(
        "lane {lane} has no owner just now; try again in a second"
    ))
}
