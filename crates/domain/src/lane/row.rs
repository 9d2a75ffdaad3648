use std::sync::Arc;

use super::{Class, DueMark, Totals};
use crate::{Budgets, FinalState, Hour, LaneId, Micros};

/// A row's place in its chain: its number, and the random batch id it was written with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Link {
    /// The number in the lane; it only grows.
    pub n: u64,
    /// The batch's id: tells one's own row from another's of the same number.
    pub batch: u128,
}

impl Link {
    /// The next place, for a row of `batch`.
    #[must_use]
    pub fn next(self, batch: u128) -> Self {
        Self {
            n: self.n + 1,
            batch,
        }
    }
}

/// What kind of row it is. The numbers are stored: never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowKind {
    /// The first row of a lane, written when the lane is made.
    Genesis,
    /// The lane's work.
    Work,
    /// The chain goes on at row `to`, which is committed with this one.
    Jump {
        /// That row's number.
        to: u64,
    },
    /// A new owner's first row.
    TakeOver,
}

/// Executions of one class that were accepted together, numbered in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The line they wait in.
    pub class: Class,
    /// The first one's number.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// A due entry that was read from its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedEntry {
    /// Its time and number.
    pub mark: DueMark,
    /// The line it will wait in.
    pub class: Class,
    /// The hour of its home window.
    pub home: Hour,
    /// What it has used up.
    pub budgets: Budgets,
}

/// Executions of one class that were claimed for one worker, numbered in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimed {
    /// The line they waited in.
    pub class: Class,
    /// For whom.
    pub worker: Arc<str>,
    /// The first one's number.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// A running execution that ended for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed {
    /// Its number.
    pub seq: u64,
    /// How.
    pub state: FinalState,
}

/// A running execution that failed and will be tried again at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retried {
    /// Its number.
    pub seq: u64,
    /// When.
    pub due: Micros,
    /// What it has used up by then.
    pub budgets: Budgets,
}

/// A running execution that was lost or handed back, and waits again at the head of its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requeued {
    /// Its number.
    pub seq: u64,
    /// What it has used up by then.
    pub budgets: Budgets,
}

/// What a row changes. Applied in the fields' order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Delta {
    /// Read from the `due` table.
    pub timed: Vec<TimedEntry>,
    /// How far the `due` table is read now.
    pub due_read: Option<DueMark>,
    /// Ended for good.
    pub closed: Vec<Closed>,
    /// Ended for now; those that are due beyond what has been read wait in the table.
    pub retried: Vec<Retried>,
    /// Back at the head of their lines, the last one first.
    pub requeued: Vec<Requeued>,
    /// Everything timed up to here, its time having come, waits in its line now.
    pub promoted: Option<DueMark>,
    /// Came in.
    pub accepted: Vec<Accepted>,
    /// Go out.
    pub claimed: Vec<Claimed>,
}

impl Delta {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One row of a lane's chain: fence, order, totals and recovery log in one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Whose chain.
    pub lane: LaneId,
    /// Its place.
    pub link: Link,
    /// The place before: the row is inserted only if that one is there.
    pub previous: Link,
    /// What kind of row.
    pub kind: RowKind,
    /// The lease's epoch of the owner that wrote it; for people.
    pub epoch: i64,
    /// When it was planned, by the database's clock as the owner reads it.
    pub at: Micros,
    /// The number that the next accepted execution gets.
    pub next_seq: u64,
    /// The lane's totals after it.
    pub totals: Totals,
    /// What it changes.
    pub delta: Delta,
}

impl Row {
    /// The row that begins the chain of `lane`, made at `at`.
    #[must_use]
    pub fn genesis(lane: LaneId, at: Micros) -> Self {
        let n = u64::try_from(at.0).unwrap_or(0);
        Self {
            lane,
            link: Link { n, batch: 0 },
            previous: Link::default(),
            kind: RowKind::Genesis,
            epoch: 0,
            at,
            next_seq: 1,
            totals: Totals::default(),
            delta: Delta {
                due_read: Some(DueMark { due: at, seq: 0 }),
                ..Delta::default()
            },
        }
    }
}
