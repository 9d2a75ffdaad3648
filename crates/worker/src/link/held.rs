use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use domain::ExecutionId;
use proto::v1;

use super::peers::PeerId;
use super::schedulers::SchedulerRef;
use crate::context::Shared;
use crate::outcome::Report;

/// Everything that the worker holds: begun, waiting to begin, or ended and not settled.
#[derive(Default)]
pub(super) struct Holdings {
    by_execution: HashMap<ExecutionId, Held>,
}

/// The right to one attempt, and how far it is.
pub(super) struct Held {
    pub(super) fence: u64,
    /// Who handed it out.
    pub(super) origin: SchedulerRef,
    /// Until when it may run by the lease that it came under.
    pub(super) granted: Instant,
    pub(super) stage: Stage,
}

/// How far an attempt is.
pub(super) enum Stage {
    /// No slot is free yet.
    Waiting { shared: Arc<Shared>, payload: Bytes },
    /// The handler runs.
    Running { shared: Arc<Shared> },
    /// It ended; the result is not settled.
    Ended(Box<Unsettled>),
}

/// A result on its way.
pub(super) struct Unsettled {
    pub(super) report: Report,
    /// How often it was sent.
    pub(super) sent: u32,
    /// To whom last.
    pub(super) sent_to: Option<PeerId>,
    /// When to send it, again if nothing is heard of it.
    pub(super) due: Instant,
}

impl Holdings {
    pub(super) fn is_empty(&self) -> bool {
        self.by_execution.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_execution.len()
    }

    pub(super) fn get_mut(&mut self, id: ExecutionId) -> Option<&mut Held> {
        self.by_execution.get_mut(&id)
    }

    /// The one with this fence, if it is held.
    pub(super) fn exact_mut(&mut self, id: ExecutionId, fence: u64) -> Option<&mut Held> {
        self.by_execution
            .get_mut(&id)
            .filter(|held| held.fence == fence)
    }

    pub(super) fn insert(&mut self, id: ExecutionId, held: Held) -> Option<Held> {
        self.by_execution.insert(id, held)
    }

    /// Lets go of one, if it is held under this fence.
    pub(super) fn remove(&mut self, id: ExecutionId, fence: u64) -> Option<Held> {
        self.exact_mut(id, fence)?;
        self.by_execution.remove(&id)
    }

    /// Lets go of a result under this fence; what has not ended can't be settled.
    pub(super) fn settle(&mut self, id: ExecutionId, fence: u64) {
        if let Entry::Occupied(held) = self.by_execution.entry(id)
            && held.get().fence == fence
            && held.get().unfinished().is_none()
        {
            held.remove();
        }
    }

    /// Whether this fence, or a later one, of the execution is held.
    pub(super) fn covers(&self, id: ExecutionId, fence: u64) -> bool {
        self.by_execution
            .get(&id)
            .is_some_and(|held| held.fence >= fence)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ExecutionId, &mut Held)> {
        self.by_execution.iter_mut().map(|(id, held)| (*id, held))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ExecutionId, &Held)> {
        self.by_execution.iter().map(|(id, held)| (*id, held))
    }

    /// All of it, as schedulers are told.
    pub(super) fn to_wire(&self) -> Vec<v1::Held> {
        self.iter()
            .map(|(id, held)| v1::Held {
                execution_id: Bytes::copy_from_slice(id.as_bytes()),
                fence: held.fence,
            })
            .collect()
    }
}

impl Held {
    /// The attempt, if it has not ended.
    pub(super) fn unfinished(&self) -> Option<&Arc<Shared>> {
        match &self.stage {
            Stage::Waiting { shared, .. } | Stage::Running { shared } => Some(shared),
            Stage::Ended(_) => None,
        }
    }

    /// The result, if it has ended.
    pub(super) fn unsettled_mut(&mut self) -> Option<&mut Unsettled> {
        match &mut self.stage {
            Stage::Ended(unsettled) => Some(unsettled),
            Stage::Waiting { .. } | Stage::Running { .. } => None,
        }
    }

    /// It ended with this result, to be sent at once.
    pub(super) fn end(&mut self, report: Report, now: Instant) {
        self.stage = Stage::Ended(Box::new(Unsettled {
            report,
            sent: 0,
            sent_to: None,
            due: now,
        }));
    }
}
