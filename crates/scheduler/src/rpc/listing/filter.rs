use std::collections::BTreeMap;

use domain::{ExecutionState, LaneId, ListMark, Reason, limits};
use proto::internal::v1::ListExecutionsRequest;
use store::{ListPart, Queue};
use tonic::Status;

use super::token;
use crate::rpc::describe::Standing;
use crate::rpc::scheduler_service::Internal;
use crate::rpc::trouble;

/// Executions that one round looks at where some of them will not pass.
const ROUND: usize = 500;

/// What the executions of a list are ordered by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// When they were accepted.
    Accepted,
    /// When they came to their final state.
    Ended,
    /// What waits for a time: when that is. What is queued or runs: since when.
    Open,
}

impl Order {
    /// Lists of failures go by an index of them, lists of open executions by memory; whatever else may be
    /// asked for is looked for among all executions.
    fn of(states: &[ExecutionState]) -> Self {
        let unsuccessful =
            |state: &ExecutionState| state.is_final() && *state != ExecutionState::Succeeded;
        if states.is_empty() {
            Self::Accepted
        } else if states.iter().all(unsuccessful) {
            Self::Ended
        } else if !states.iter().any(|state| state.is_final()) {
            Self::Open
        } else {
            Self::Accepted
        }
    }
}

/// A list that is asked for.
pub(super) struct List {
    pub(super) tenant: i32,
    /// By number.
    pub(super) queues: BTreeMap<i32, Queue>,
    /// Any of these; empty: all.
    pub(super) states: Vec<ExecutionState>,
    /// Any of these; `None`: all.
    pub(super) job_types: Option<Vec<i32>>,
    pub(super) without_discarded: bool,
    pub(super) order: Order,
    pub(super) page_size: usize,
    /// What its page comes after.
    pub(super) before: ListMark,
    /// What its tokens belong to.
    pub(super) fingerprint: u64,
}

impl List {
    /// Whether an execution in this state is one of the list's.
    pub(super) fn wants(&self, state: ExecutionState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether an execution that stands so is one of the list's.
    pub(super) fn shows(&self, standing: &Standing) -> bool {
        let discarded = standing.reason == Reason::Discarded as i32;
        self.wants(standing.state) && !(discarded && self.without_discarded)
    }

    /// Whether any of the list's executions may not be over.
    pub(super) fn wants_open(&self) -> bool {
        self.states.is_empty() || self.states.iter().any(|state| !state.is_final())
    }

    /// Whether any of the list's executions may wait for a time.
    pub(super) fn wants_timed(&self) -> bool {
        self.wants(ExecutionState::Scheduled) || self.wants(ExecutionState::Retrying)
    }

    /// The lanes that its queues live in.
    pub(super) fn lanes(&self) -> Vec<LaneId> {
        let lanes = self.queues.values().flat_map(|queue| &queue.lanes);
        let mut lanes: Vec<LaneId> = lanes.copied().collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// How much one round looks at: a page and what tells whether more follows, unless some of it will
    /// not pass.
    pub(super) fn round(&self) -> usize {
        let sifted = self.order == Order::Accepted && !self.states.is_empty();
        match sifted || self.job_types.is_some() || self.without_discarded {
            true => ROUND.max(self.page_size + 1),
            false => self.page_size + 1,
        }
    }

    /// What comes after a place of the list.
    pub(super) fn part(&self, before: ListMark) -> ListPart {
        ListPart {
            tenant: self.tenant,
            queues: self.queues.keys().copied().collect(),
            before,
            after: ListMark::END,
            limit: self.round(),
        }
    }
}

impl Internal {
    /// The list that is asked for; `None` if nothing can be in it.
    pub(super) async fn asked(
        &self,
        request: ListExecutionsRequest,
    ) -> Result<Option<List>, Status> {
        let tenant = i32::try_from(request.tenant).unwrap_or(0);
        let asked = request.list.unwrap_or_default();
        let states = states(&asked.states)?;
        let fingerprint = token::fingerprint(tenant, &asked.queue, &states, &asked.job_type);
        let before = match asked.page_token.as_str() {
            "" => ListMark::BEGIN,
            token => token::read(token, fingerprint)?,
        };
        let page_size = match asked.page_size {
            0 => limits::DEFAULT_PAGE,
            size => size.min(limits::MAX_PAGE),
        };
        let queues = self.queues_asked(tenant, &asked.queue).await?;
        let job_types = self.types_asked(tenant, &asked.job_type).await?;
        if queues.is_empty() || job_types.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        Ok(Some(List {
            tenant,
            queues,
            order: Order::of(&states),
            states,
            job_types,
            without_discarded: asked.without_discarded,
            page_size: page_size as usize,
            before,
            fingerprint,
        }))
    }

    /// The named queue, or all of the tenant.
    async fn queues_asked(&self, tenant: i32, name: &str) -> Result<BTreeMap<i32, Queue>, Status> {
        let queues = match name {
            "" => self.shared.database.queues_of(tenant).await,
            name => {
                let found = self.shared.catalog.queue_by_name(tenant, name).await;
                let found = found.map_err(|error| trouble(&error))?;
                let missing = || Status::not_found(format!("there is no queue {name:?}"));
                Ok(vec![Queue::clone(&*found.ok_or_else(missing)?)])
            }
        };
        let queues = queues.map_err(|error| trouble(&error))?;
        Ok(queues
            .into_iter()
            .map(|queue| (queue.number, queue))
            .collect())
    }

    /// The numbers of the named type; none if nobody ever announced it.
    async fn types_asked(&self, tenant: i32, name: &str) -> Result<Option<Vec<i32>>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        let numbers = self.shared.database.type_numbers(tenant, name).await;
        numbers.map(Some).map_err(|error| trouble(&error))
    }
}

fn states(numbers: &[i32]) -> Result<Vec<ExecutionState>, Status> {
    let state = |number: &i32| {
        let state = i16::try_from(*number).ok();
        let state = state.and_then(ExecutionState::from_number);
        state.ok_or_else(|| Status::invalid_argument(format!("states: {number} is no state")))
    };
    let mut states = numbers.iter().map(state).collect::<Result<Vec<_>, _>>()?;
    states.sort_unstable_by_key(|state| *state as i32);
    states.dedup();
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExecutionState::{
        Cancelled, DeadLettered, Failed, Queued, Retrying, Running, Scheduled, Succeeded,
    };

    #[test]
    fn the_states_say_the_order() {
        for (states, order) in [
            (vec![], Order::Accepted),
            (vec![Succeeded], Order::Accepted),
            (vec![Failed], Order::Ended),
            (vec![Failed, DeadLettered, Cancelled], Order::Ended),
            (vec![Succeeded, Failed], Order::Accepted),
            (vec![Queued], Order::Open),
            (vec![Scheduled, Queued, Running, Retrying], Order::Open),
            (vec![Running, Failed], Order::Accepted),
        ] {
            assert_eq!(Order::of(&states), order, "{states:?}");
        }
    }

    #[test]
    fn each_state_counts_once_and_what_is_none_is_refused() {
        assert_eq!(states(&[9, 3, 9]).unwrap(), [Queued, Cancelled]);
        for bad in [0, 1, 10, -1, i32::MAX] {
            let refused = states(&[3, bad]).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{bad}");
        }
    }
}
