use std::collections::BTreeMap;
use std::sync::Arc;

use domain::lane::{DueMark, Wait};
use domain::{ExecutionState, Hour, LaneId, ListMark, Micros, Stretch};
use tonic::Status;

use super::filter::{List, Order};
use crate::group::{InMemory, Open, OpenList};
use crate::rpc::scheduler_service::Internal;
use crate::rpc::trouble;

/// An execution that may be one of a list's.
pub(super) struct Candidate {
    pub(super) home: Hour,
    /// What memory says of it, if it was asked or needn't be.
    pub(super) memory: Option<InMemory>,
}

impl From<Open> for Candidate {
    fn from(open: Open) -> Self {
        let (home, memory) = (open.home, Some(open.memory));
        Self { home, memory }
    }
}

impl Internal {
    /// What comes after a place of a list, and may be part of it.
    pub(super) async fn candidates(
        &self,
        list: &List,
        before: ListMark,
    ) -> Result<Stretch<Candidate>, Status> {
        let windows = Arc::clone(&self.shared.windows.borrow());
        let (database, part) = (&self.shared.database, list.part(before));
        let found = match list.order {
            Order::Open => return self.open_candidates(list, before).await,
            Order::Accepted => database.list_accepted(&windows, &part).await,
            Order::Ended => {
                let states: Vec<i16> = list.states.iter().map(|state| *state as i16).collect();
                database.list_ended(&windows, &part, &states).await
            }
        };
        let found = found.map_err(|error| trouble(&error))?;
        // No memory knows what is over.
        let memory = (list.order == Order::Ended).then_some(InMemory::Unknown);
        Ok(found.map(|home| {
            let memory = memory.clone();
            Candidate { home, memory }
        }))
    }

    /// What is open: from the memory of the lanes' owners, and from the rows what is due beyond what they
    /// have read. Memory comes first: what it hands over to the rows meanwhile is found there.
    async fn open_candidates(
        &self,
        list: &List,
        before: ListMark,
    ) -> Result<Stretch<Candidate>, Status> {
        let part = list.part(before);
        let asked = OpenList {
            tenant: list.tenant,
            queues: part.queues.clone(),
            states: list.states.clone(),
            job_types: list.job_types.clone(),
            before,
            limit: part.limit,
        };
        let found = self.list_open_everywhere(asked, list.lanes()).await?;
        let mut open = found.list.map(Candidate::from);
        if let Some(times) = found.stored.filter(|_| list.wants(ExecutionState::Queued)) {
            open = self.accepted_within(list, before, times).await?.merge(open);
        }
        if !list.wants_timed() {
            return Ok(open);
        }
        let due_read: BTreeMap<LaneId, DueMark> = found.due_read.into_iter().collect();
        Ok(open.merge(self.due_beyond(list, before, &due_read).await?))
    }

    /// What was accepted while memory was full: some of it waits in its table alone.
    async fn accepted_within(
        &self,
        list: &List,
        before: ListMark,
        (since, until): (Micros, Micros),
    ) -> Result<Stretch<Candidate>, Status> {
        let windows = Arc::clone(&self.shared.windows.borrow());
        let mut part = list.part(before);
        let after = |at: Micros| ListMark {
            at: Micros(at.0 + 1),
            ..ListMark::END
        };
        part.before = part.before.min(after(until));
        part.after = after(Micros(since.0 - 2));
        let found = self.shared.database.list_accepted(&windows, &part).await;
        let found = found.map_err(|error| trouble(&error))?;
        Ok(found.map(|home| Candidate { home, memory: None }))
    }

    /// What is due beyond what the lanes' owners have read of it.
    async fn due_beyond(
        &self,
        list: &List,
        before: ListMark,
        read: &BTreeMap<LaneId, DueMark>,
    ) -> Result<Stretch<Candidate>, Status> {
        let windows = Arc::clone(&self.shared.windows.borrow());
        let mut part = list.part(before);
        if let Some(first) = read.values().min() {
            part.after.at = first.due;
        }
        let found = self.shared.database.list_due(&windows, &part).await;
        let mut found = found.map_err(|error| trouble(&error))?;
        found.items.retain(|(mark, _)| {
            let (due, seq) = (mark.at, mark.seq);
            let read = read.get(&mark.lane);
            read.is_some_and(|read| DueMark { due, seq } > *read)
        });
        // Where it is a retry, its last outcome will say so.
        let wait = Wait::Scheduled;
        Ok(found.map(|home| Candidate {
            home,
            memory: Some(InMemory::Timed { wait }),
        }))
    }
}
