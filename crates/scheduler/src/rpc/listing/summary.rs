use std::collections::BTreeMap;
use std::sync::Arc;

use domain::lane::Wait;
use domain::{ExecutionId, ExecutionState, LaneId, ListMark, Micros};
use proto::v1::ExecutionSummary;
use store::{ExecutionPlace, LastOutcome, ListedHead, WindowMap};
use tonic::Status;

use super::candidates::Candidate;
use super::filter::{List, Order};
use crate::group::{InMemory, Sought, correlation_id};
use crate::rpc::describe::{InRows, Standing, standing, timestamp};
use crate::rpc::scheduler_service::Internal;
use crate::rpc::trouble;

/// A candidate and what was submitted.
struct Listed {
    mark: ListMark,
    place: ExecutionPlace,
    head: ListedHead,
    memory: Option<InMemory>,
}

/// The last outcomes of those that have one.
type LastOutcomes = BTreeMap<(LaneId, u64), LastOutcome>;

impl Internal {
    /// What the list shows of candidates: `None` at the places of those that aren't of it.
    pub(super) async fn shown(
        &self,
        list: &List,
        candidates: Vec<(ListMark, Candidate)>,
    ) -> Result<Vec<(ListMark, Option<ExecutionSummary>)>, Status> {
        let windows = Arc::clone(&self.shared.windows.borrow());
        let marks: Vec<ListMark> = candidates.iter().map(|(mark, _)| *mark).collect();
        let mut listed = self.listed(&windows, list, candidates).await?;
        let last = self.last_words(&windows, list, &mut listed).await?;
        let now = self.shared.clock.now();
        let mut shown = BTreeMap::new();
        for listed in listed {
            let last = last.get(&(listed.place.lane, listed.place.seq)).copied();
            let memory = listed.memory.as_ref().unwrap_or(&InMemory::Unknown);
            let standing = standing(listed.in_rows(last), memory, now);
            let time = list.order.time(&listed, &standing, last);
            // What has moved on since it was found is elsewhere in the list, or not in it.
            if list.shows(&standing) && time == listed.mark.at {
                let summary = self.summary(list, &listed, standing).await?;
                shown.insert(listed.mark, summary);
            }
        }
        let marks = marks.into_iter();
        Ok(marks.map(|mark| (mark, shown.remove(&mark))).collect())
    }

    /// The candidates of the list's tenant, queues and types.
    async fn listed(
        &self,
        windows: &WindowMap,
        list: &List,
        candidates: Vec<(ListMark, Candidate)>,
    ) -> Result<Vec<Listed>, Status> {
        let place = |(mark, candidate): &(ListMark, Candidate)| ExecutionPlace {
            lane: mark.lane,
            seq: mark.seq,
            home: candidate.home,
        };
        let places: Vec<ExecutionPlace> = candidates.iter().map(place).collect();
        let heads = self
            .shared
            .database
            .listed_heads(windows, list.tenant, &places)
            .await;
        let mut heads = heads.map_err(|error| trouble(&error))?;
        let places = places.into_iter();
        let listed = candidates
            .into_iter()
            .zip(places)
            .filter_map(|(one, place)| {
                let (mark, Candidate { memory, .. }) = one;
                let head = heads.remove(&(place.lane, place.seq))?;
                list.concerns(&head).then_some(Listed {
                    mark,
                    place,
                    head,
                    memory,
                })
            });
        Ok(listed.collect())
    }

    /// The last outcomes, read after memory has been asked: where memory hasn't been asked yet, it is asked
    /// of those that aren't over, if the list wants any of them, and their outcomes are read again.
    async fn last_words(
        &self,
        windows: &WindowMap,
        list: &List,
        listed: &mut [Listed],
    ) -> Result<LastOutcomes, Status> {
        let mut last = self.last_outcomes(windows, list, listed).await?;
        let over = |one: &Listed| {
            let last = last.get(&(one.place.lane, one.place.seq));
            last.is_some_and(|last| last.state.is_final())
        };
        let unknown = |one: &&mut Listed| one.memory.is_none() && !over(one);
        let mut open: Vec<&mut Listed> = listed.iter_mut().filter(unknown).collect();
        if open.is_empty() || !list.wants_open() {
            return Ok(last);
        }
        let sought = open.iter().map(|one| {
            let last = last.get(&(one.place.lane, one.place.seq));
            one.sought(last.copied())
        });
        let located = self.locate_everywhere(sought.collect()).await?;
        for (one, memory) in open.iter_mut().zip(located) {
            one.memory = Some(memory);
        }
        let again: Vec<ExecutionPlace> = open.iter().map(|one| one.place).collect();
        let again = self
            .shared
            .database
            .last_outcomes(windows, list.tenant, &again)
            .await;
        last.extend(again.map_err(|error| trouble(&error))?);
        Ok(last)
    }

    async fn last_outcomes(
        &self,
        windows: &WindowMap,
        list: &List,
        listed: &[Listed],
    ) -> Result<LastOutcomes, Status> {
        let places: Vec<ExecutionPlace> = listed.iter().map(|one| one.place).collect();
        let last = self
            .shared
            .database
            .last_outcomes(windows, list.tenant, &places)
            .await;
        last.map_err(|error| trouble(&error))
    }

    async fn summary(
        &self,
        list: &List,
        listed: &Listed,
        standing: Standing,
    ) -> Result<ExecutionSummary, Status> {
        let Listed { place, head, .. } = listed;
        let home = head.due.unwrap_or(head.accepted);
        let id = ExecutionId::new(place.lane, place.seq, home, &self.shared.id_key);
        let job_type = self.shared.catalog.job_type(head.job_type).await;
        let job_type = job_type.map_err(|error| trouble(&error))?;
        let queue = list.queues.get(&head.queue);
        Ok(ExecutionSummary {
            execution_id: id.to_string(),
            job_type: job_type.map(|name| name.to_string()).unwrap_or_default(),
            queue: queue.map(|queue| queue.name.clone()).unwrap_or_default(),
            priority: head.priority as i32,
            state: standing.state as i32,
            reason: standing.reason,
            attempt: u32::from(standing.attempt),
            submitted_at: Some(timestamp(head.accepted)),
            due_at: head.due.map(timestamp),
            state_since: Some(timestamp(standing.since)),
            correlation_id: correlation_id(id, head.correlation_id.as_deref()),
            labels: head.labels.clone().into_iter().collect(),
        })
    }
}

impl List {
    fn concerns(&self, head: &ListedHead) -> bool {
        let types = self.job_types.as_ref();
        head.tenant == self.tenant
            && self.queues.contains_key(&head.queue)
            && types.is_none_or(|types| types.contains(&head.job_type))
    }
}

impl Listed {
    fn in_rows(&self, last: Option<LastOutcome>) -> InRows<'static> {
        InRows {
            accepted: self.head.accepted,
            due: self.head.due,
            last,
            worker: "",
        }
    }

    /// What its owner is asked of it, that being its last outcome.
    fn sought(&self, last: Option<LastOutcome>) -> Sought {
        let waits = match last {
            None => self.head.due.map(|due| (Wait::Scheduled, due)),
            Some(last) => last.next_at.map(|due| (Wait::Retrying, due)),
        };
        let came = last.map_or(self.head.accepted, |last| last.at);
        Sought {
            lane: self.place.lane,
            seq: self.place.seq,
            waits,
            queued: waits.map_or(came, |(_, due)| due),
        }
    }
}

impl Order {
    /// The time by which an execution that stands so has its place in the list.
    fn time(self, listed: &Listed, standing: &Standing, last: Option<LastOutcome>) -> Micros {
        match (self, standing.state) {
            (Self::Accepted, _) => listed.head.accepted,
            (Self::Open, ExecutionState::Scheduled) => {
                listed.head.due.unwrap_or(listed.head.accepted)
            }
            (Self::Open, ExecutionState::Retrying) => {
                last.and_then(|last| last.next_at).unwrap_or(standing.since)
            }
            (Self::Open | Self::Ended, _) => standing.since,
        }
    }
}
