use std::sync::Arc;

use domain::lane::{Class, DueMark, InTable, TimedEntry, Wait};
use domain::{Budgets, ExecutionId, ExecutionState};
use proto::internal::v1::{CancelExecutionRequest, CancelExecutionResponse};
use proto::v1::CancelExecutionResponse as Outcome;
use store::StoredExecution;
use tokio::sync::oneshot;
use tonic::Status;

use super::reading::no_owner;
use super::scheduler_service::Internal;
use super::trouble;
use crate::group::{Cancel, CancelVerdict, Input};
use crate::shared::Known;

/// How often an execution that moves on under the caller's hands is followed.
const TRIES: usize = 5;

impl Internal {
    /// Cancels an execution by a row of its lane, or has its lane's owner do it: nothing is reported that
    /// wasn't decided.
    pub(crate) async fn cancel(
        &self,
        request: CancelExecutionRequest,
    ) -> Result<CancelExecutionResponse, Status> {
        let id = self.genuine(&request.execution_id)?;
        if let Some(address) = self.elsewhere(id).filter(|_| !request.forwarded) {
            let request = CancelExecutionRequest {
                forwarded: true,
                ..request
            };
            let mut client = self.peers.client(&address)?;
            let answer = client.cancel_execution(self.peers.request(request)).await?;
            return Ok(answer.into_inner());
        }
        for _ in 0..TRIES {
            let stored = self.stored(id, request.tenant).await?;
            if let Some(state) = final_state(&stored) {
                return already(id, state);
            }
            match self.decide(id, stored).await? {
                CancelVerdict::Over => return Ok(answer(ExecutionState::Cancelled)),
                CancelVerdict::Told => return Ok(answer(ExecutionState::Running)),
                CancelVerdict::NotNow => return Err(no_owner(id)),
                CancelVerdict::Moved => {}
            }
        }
        Err(Status::unavailable(format!(
            "execution {id} moves on too fast to be cancelled; try again in a second"
        )))
    }

    async fn decide(
        &self,
        id: ExecutionId,
        stored: StoredExecution,
    ) -> Result<CancelVerdict, Status> {
        let entry = entry_of(id, &stored);
        let windows = Arc::clone(&self.shared.windows.borrow());
        let ahead = entry.mark.due > self.shared.clock.now();
        let due = ahead
            && (self.shared.database)
                .is_tabled(&windows, stored.head.tenant, id.lane(), entry.mark)
                .await
                .map_err(|error| trouble(&error))?;
        let fresh = stored.attempts.is_empty() && stored.head.due.is_none();
        let rows = match (due, fresh) {
            (true, _) => InTable::Due,
            (false, true) => InTable::Fresh,
            (false, false) => InTable::No,
        };
        let work = self.shared.work_of(stored.head).await;
        let work = work.map_err(|error| trouble(&error))?.into();
        let (reply, verdict) = oneshot::channel();
        let saved = None;
        let known = Known { id, work, saved };
        let cancel = Cancel {
            known,
            entry,
            rows,
            reply,
        };
        self.groups.of(id.lane()).send(Input::Cancel(cancel)).await;
        Ok(verdict.await.unwrap_or(CancelVerdict::NotNow))
    }
}

/// What the rows tell of an execution's place: its line, and its time if it waits for one.
fn entry_of(id: ExecutionId, stored: &StoredExecution) -> TimedEntry {
    let (head, last) = (&stored.head, stored.attempts.last());
    let class = Class {
        tenant: head.tenant,
        queue: head.queue,
        priority: head.priority,
        job_type: head.job_type,
        suspect: false,
    };
    let due = match last {
        Some(last) => last.next_at.unwrap_or(last.at),
        None => head.due.unwrap_or(head.accepted),
    };
    let budgets = last.map_or(Budgets::default(), |last| last.budgets);
    TimedEntry {
        mark: DueMark { due, seq: id.seq() },
        class: class.after(budgets),
        home: id.home(),
        budgets,
        wait: last.map_or(Wait::Scheduled, |_| Wait::Retrying),
    }
}

fn final_state(stored: &StoredExecution) -> Option<ExecutionState> {
    let last = stored.attempts.last()?;
    last.state.is_final().then_some(last.state)
}

/// Who cancels what is cancelled has what he wants; any other end stands.
fn already(id: ExecutionId, state: ExecutionState) -> Result<CancelExecutionResponse, Status> {
    match state {
        ExecutionState::Cancelled => Ok(answer(state)),
        state => Err(Status::failed_precondition(format!(
            "execution {id} is over already: {}",
            state.name()
        ))),
    }
}

fn answer(state: ExecutionState) -> CancelExecutionResponse {
    let state = state as i32;
    CancelExecutionResponse {
        outcome: Some(Outcome { state }),
    }
}
