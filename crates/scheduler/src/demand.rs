//! How many tasks this scheduler could have under way on a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::session::{MAX_GROUPS, Session};

/// A worker hears of it no more often than this.
pub(crate) const EVERY: Duration = Duration::from_millis(100);
/// Nobody has looked yet.
const UNKNOWN: u32 = u32::MAX;

/// What waits that a worker could run, by lane group.
#[derive(Debug)]
pub(crate) struct Demand {
    slots: u32,
    groups: usize,
    waiting: [AtomicU32; MAX_GROUPS],
    /// What it came to when a group looked last.
    noted: AtomicU32,
    changed: Notify,
}

impl Demand {
    /// Of a worker with so many slots.
    pub(crate) fn new(slots: u32, groups: usize) -> Self {
        Self {
            slots,
            groups: groups.min(MAX_GROUPS),
            waiting: std::array::from_fn(|_| AtomicU32::new(UNKNOWN)),
            noted: AtomicU32::new(UNKNOWN),
            changed: Notify::new(),
        }
    }

    /// So many wait in a group, while so many are under way from all.
    pub(crate) fn note(&self, group: usize, waiting: u64, under_way: i64) {
        let waiting = u32::try_from(waiting).unwrap_or(UNKNOWN).min(self.slots);
        self.waiting[group].store(waiting, Ordering::Release);
        let tasks = self.tasks(under_way).unwrap_or(UNKNOWN);
        if self.noted.swap(tasks, Ordering::AcqRel) != tasks {
            self.changed.notify_one();
        }
    }

    /// How many there could be; `None` until every group has looked. No more than the worker has slots.
    pub(crate) fn tasks(&self, under_way: i64) -> Option<u32> {
        let mut tasks = u32::try_from(under_way).unwrap_or(0);
        for waiting in &self.waiting[..self.groups] {
            match waiting.load(Ordering::Acquire) {
                UNKNOWN => return None,
                waiting => tasks = tasks.saturating_add(waiting),
            }
        }
        Some(tasks.min(self.slots))
    }

    /// Waits until it may have changed.
    async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// What one stream of a worker is told of it.
#[derive(Default)]
pub(crate) struct DemandTold {
    last: Option<(u32, Instant)>,
}

impl DemandTold {
    /// What the worker is to be told, once it is to be told something. May be dropped at any time.
    pub(crate) async fn next(&mut self, session: &Arc<Session>) -> u32 {
        loop {
            let Some(tasks) = self.news(session) else {
                session.demand().changed().await;
                continue;
            };
            let now = Instant::now();
            match self.last.map(|(_, at)| at + EVERY) {
                Some(due) if now < due => tokio::time::sleep_until(due).await,
                _ => {
                    self.last = Some((tasks, now));
                    return tasks;
                }
            }
        }
    }

    fn news(&self, session: &Session) -> Option<u32> {
        let tasks = session.demand().tasks(session.under_way())?;
        let told = self.last.map(|(tasks, _)| tasks);
        (Some(tasks) != told).then_some(tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_is_under_way_and_waits_up_to_the_slots_once_every_group_has_looked() {
        let demand = Demand::new(10, 2);
        demand.note(0, 3, 1);
        assert_eq!(demand.tasks(1), None, "the other group hasn't looked");
        demand.note(1, 2, 1);
        assert_eq!(demand.tasks(1), Some(6));
        assert_eq!(demand.tasks(9), Some(10));
        demand.note(1, u64::MAX, 0);
        assert_eq!(demand.tasks(0), Some(10));
        demand.note(0, 0, 0);
        demand.note(1, 0, 0);
        assert_eq!(demand.tasks(0), Some(0));
    }
}
