use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use domain::{ExecutionId, LaneId};
use proto::v1;

use super::schedulers::{SchedulerRef, Schedulers};
use super::way::Way;
use crate::context::Shared;
use crate::outcome::Report;

/// Everything that the worker holds: begun, waiting to begin, or ended and not settled.
#[derive(Default)]
pub(super) struct Holdings {
    by_execution: HashMap<ExecutionId, Held>,
    /// How many have not ended, by where they belong.
    under_way: HashMap<Origin, u32>,
    /// Those of them that are suspects: one, if no lane changes hands.
    suspects: HashMap<ExecutionId, Origin>,
    /// How many of them have begun.
    running: u32,
}

/// Where a task belongs: to its lane's owner, and to who handed it out while there is none.
pub(super) type Origin = (LaneId, SchedulerRef);

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
    pub(super) way: Way,
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

    /// Holds a task that waits to begin; gives the one that was held under another fence.
    pub(super) fn insert(&mut self, id: ExecutionId, held: Held) -> Option<Held> {
        let origin = (id.lane(), held.origin);
        let suspect = held.unfinished().is_some_and(|shared| shared.task.suspect);
        let older = self.by_execution.insert(id, held);
        if let Some(older) = &older {
            self.discount(id, older.origin, &older.stage);
        }
        *self.under_way.entry(origin).or_default() += 1;
        if suspect {
            self.suspects.insert(id, origin);
        }
        older
    }

    /// Where the suspects that have not ended belong.
    pub(super) fn suspects(&self) -> impl Iterator<Item = Origin> {
        self.suspects.values().copied()
    }

    /// A waiting task gets a slot; `None` if it doesn't wait any more.
    pub(super) fn begin(&mut self, id: ExecutionId) -> Option<(Arc<Shared>, Bytes)> {
        let held = self.by_execution.get_mut(&id)?;
        let Stage::Waiting { shared, payload } = &mut held.stage else {
            return None;
        };
        let (shared, payload) = (Arc::clone(shared), std::mem::take(payload));
        held.stage = Stage::Running {
            shared: Arc::clone(&shared),
        };
        self.running += 1;
        Some((shared, payload))
    }

    /// An attempt ended with this result, to be sent at once. `false`: it isn't held, or has a
    /// result already.
    pub(super) fn end(&mut self, report: Report, now: Instant) -> bool {
        let id = report.execution_id;
        let Some(held) = self
            .exact_mut(id, report.fence)
            .filter(|held| held.unfinished().is_some())
        else {
            return false;
        };
        let origin = held.origin;
        let ended = Stage::Ended(Box::new(Unsettled {
            report,
            way: Way::new(now),
        }));
        let before = std::mem::replace(&mut held.stage, ended);
        self.discount(id, origin, &before);
        true
    }

    /// Lets go of one, if it is held under this fence.
    pub(super) fn remove(&mut self, id: ExecutionId, fence: u64) -> Option<Held> {
        self.exact_mut(id, fence)?;
        let held = self.by_execution.remove(&id)?;
        self.discount(id, held.origin, &held.stage);
        Some(held)
    }

    /// Whether it is held and has not begun.
    pub(super) fn is_waiting(&self, id: ExecutionId) -> bool {
        let held = self.by_execution.get(&id);
        held.is_some_and(|held| matches!(held.stage, Stage::Waiting { .. }))
    }

    /// How many have not ended, by where they belong.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (Origin, u32)> {
        self.under_way
            .iter()
            .map(|(origin, count)| (*origin, *count))
    }

    /// How many have begun and not ended.
    pub(super) fn running(&self) -> u32 {
        self.running
    }

    fn discount(&mut self, id: ExecutionId, origin: SchedulerRef, stage: &Stage) {
        match stage {
            Stage::Waiting { .. } => {}
            Stage::Running { .. } => self.running -= 1,
            Stage::Ended(_) => return,
        }
        self.suspects.remove(&id);
        if let Entry::Occupied(mut count) = self.under_way.entry((id.lane(), origin)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
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

    /// The attempt under this fence, if it runs.
    pub(super) fn running_under(&self, id: ExecutionId, fence: u64) -> Option<&Held> {
        let held = self.by_execution.get(&id);
        held.filter(|held| held.fence == fence && matches!(held.stage, Stage::Running { .. }))
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
    pub(super) fn to_wire(&self, schedulers: &Schedulers) -> Vec<v1::Held> {
        self.iter()
            .map(|(id, held)| v1::Held {
                execution_id: Bytes::copy_from_slice(id.as_bytes()),
                fence: held.fence,
                lane_epoch: schedulers.epoch(id.lane()),
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
}
