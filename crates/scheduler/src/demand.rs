//! How many tasks this scheduler could have under way on a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto::v1;
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
    /// The groups in which suspects are among that, a bit each.
    suspects: AtomicU32,
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
            suspects: AtomicU32::new(0),
            noted: AtomicU32::new(UNKNOWN),
            changed: Notify::new(),
        }
    }

    /// So many wait in a group, suspects among them or not, while so many are under way from all.
    pub(crate) fn note(&self, group: usize, (waiting, suspects): (u64, bool), under_way: i64) {
        let bit = 1 << group;
        let before = match suspects {
            true => self.suspects.fetch_or(bit, Ordering::AcqRel),
            false => self.suspects.fetch_and(!bit, Ordering::AcqRel),
        };
        if (before & bit != 0) != suspects {
            self.touch();
        }
        let waiting = u32::try_from(waiting).unwrap_or(UNKNOWN).min(self.slots);
        self.waiting[group].store(waiting, Ordering::Release);
        let tasks = self.tasks(under_way).unwrap_or(UNKNOWN);
        if self.noted.swap(tasks, Ordering::AcqRel) != tasks {
            self.touch();
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

    /// Whether suspects wait.
    pub(crate) fn has_suspects(&self) -> bool {
        self.suspects.load(Ordering::Acquire) != 0
    }

    /// What the worker is told may be something else now.
    pub(crate) fn touch(&self) {
        self.changed.notify_one();
    }

    /// Waits until it may have changed.
    async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// What one stream of a worker is told of it.
#[derive(Default)]
pub(crate) struct DemandTold {
    last: Option<(v1::Demand, Instant)>,
}

impl DemandTold {
    /// What the worker is to be told, once it is to be told something. May be dropped at any time.
    pub(crate) async fn next(&mut self, session: &Arc<Session>) -> v1::Demand {
        loop {
            let Some(demand) = self.news(session) else {
                session.demand().changed().await;
                continue;
            };
            let now = Instant::now();
            match self.last.map(|(_, at)| at + EVERY) {
                Some(due) if now < due => tokio::time::sleep_until(due).await,
                _ => {
                    self.last = Some((demand, now));
                    return demand;
                }
            }
        }
    }

    fn news(&self, session: &Session) -> Option<v1::Demand> {
        let demand = v1::Demand {
            tasks: session.demand().tasks(session.under_way())?,
            suspects: session.demand().has_suspects(),
            permit: session.permit(),
        };
        let told = self.last.map(|(told, _)| told);
        (Some(demand) != told).then_some(demand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_is_under_way_and_waits_up_to_the_slots_once_every_group_has_looked() {
        let demand = Demand::new(10, 2);
        demand.note(0, (3, false), 1);
        assert_eq!(demand.tasks(1), None, "the other group hasn't looked");
        demand.note(1, (2, false), 1);
        assert_eq!(demand.tasks(1), Some(6));
        assert_eq!(demand.tasks(9), Some(10));
        demand.note(1, (u64::MAX, false), 0);
        assert_eq!(demand.tasks(0), Some(10));
        demand.note(0, (0, false), 0);
        demand.note(1, (0, false), 0);
        assert_eq!(demand.tasks(0), Some(0));
    }
}
