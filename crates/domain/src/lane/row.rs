use std::sync::Arc;

use super::{Class, DueMark, Recalled, Totals};
use crate::{Budgets, ExecutionState, FinalState, Hour, HourRange, LaneId, Micros};

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
    /// They wait in their table alone: memory was full.
    pub stored: bool,
}

/// What an execution waits for that waits for a time. The numbers are stored: never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Its own: it was submitted for later.
    Scheduled = 1,
    /// Its next attempt's.
    Retrying = 2,
}

impl Wait {
    /// The wait of a stored number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Scheduled),
            2 => Some(Self::Retrying),
            _ => None,
        }
    }

    /// The wait of an execution that stands so.
    #[must_use]
    pub fn of(state: ExecutionState) -> Option<Self> {
        match state {
            ExecutionState::Scheduled => Some(Self::Scheduled),
            ExecutionState::Retrying => Some(Self::Retrying),
            _ => None,
        }
    }
}

impl From<Wait> for ExecutionState {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Scheduled => Self::Scheduled,
            Wait::Retrying => Self::Retrying,
        }
    }
}

/// An execution that waits for its time: an entry of the `due` table, or on its way there.
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
    /// What it waits for.
    pub wait: Wait,
}

/// An execution that somebody cancelled, and where it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancelled {
    /// It waited in its line, and is over.
    Waiting {
        /// Its number.
        seq: u64,
        /// Its line.
        class: Class,
    },
    /// It waited for a time that has been read, and is over.
    Timed(DueMark),
    /// It waits for a time beyond what has been read, and is over: its entry will be skipped.
    Tabled(TimedEntry),
    /// It runs: its worker is told to stop, and nothing follows this attempt.
    Running(u64),
    /// It waited in its table alone, and is over.
    Stored {
        /// Its number.
        seq: u64,
        /// Its line.
        class: Class,
    },
}

impl Cancelled {
    /// Its number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        match *self {
            Self::Waiting { seq, .. } | Self::Stored { seq, .. } | Self::Running(seq) => seq,
            Self::Timed(mark) => mark.seq,
            Self::Tabled(entry) => entry.mark.seq,
        }
    }

    /// Whether it is over by that.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Running(_))
    }
}

/// An execution that came through the inbox and waits in its line from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Its number, given by the database.
    pub seq: u64,
    /// The line it waits in.
    pub class: Class,
    /// The hour of its home window.
    pub home: Hour,
}

/// An execution that was over and that somebody has run again: it waits in its line, its budgets anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reopened {
    /// Its number.
    pub seq: u64,
    /// The line it waits in.
    pub class: Class,
    /// The hour of its home window.
    pub home: Hour,
    /// Its last checkpoint, from which it goes on.
    pub saved: Option<CheckpointMark>,
}

/// The place of a checkpoint among those of its execution: a later one is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CheckpointMark {
    /// The fence of the attempt that saved it.
    pub fence: u64,
    /// Its number within the attempt.
    pub number: u64,
}

/// A running execution that has saved a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Its number.
    pub seq: u64,
    /// Which checkpoint: beyond all that it had.
    pub mark: CheckpointMark,
}

/// How far a lane's inbox has been read. The texts are PostgreSQL's own (`pg_snapshot`), since order of
/// commit isn't order of insertion; here they mean nothing but themselves.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct InboxMark {
    /// Everything that this snapshot sees has been read; empty: nothing.
    pub done: String,
    /// What another snapshot sees beyond is being read, page by page: that snapshot, and the last entry
    /// that was read.
    pub page: Option<(String, i64)>,
}

/// Which database the chain's rows were written to: another one, or another timeline of it, may lack the
/// last of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct DatabaseIdentity {
    /// PostgreSQL's `system_identifier`.
    pub system: i64,
    /// The timeline that it writes.
    pub timeline: i32,
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
    /// It waits among the suspects from here on.
    pub suspect: bool,
}

/// A running execution that was lost or handed back, and waits again at the head of its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requeued {
    /// Its number.
    pub seq: u64,
    /// What it has used up by then.
    pub budgets: Budgets,
    /// It waits among the suspects from here on.
    pub suspect: bool,
}

/// What a row changes. Applied in the fields' order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Delta {
    /// Read from the `due` table.
    pub timed: Vec<TimedEntry>,
    /// How far the `due` table is read now.
    pub due_read: Option<DueMark>,
    /// Cancelled.
    pub cancelled: Vec<Cancelled>,
    /// Saved a checkpoint.
    pub saved: Vec<Saved>,
    /// Ended for good.
    pub closed: Vec<Closed>,
    /// Ended for now; those that are due beyond what has been read wait in the table.
    pub retried: Vec<Retried>,
    /// Back at the head of their lines, the last one first.
    pub requeued: Vec<Requeued>,
    /// Came in for later; those that are due beyond what has been read wait in the table.
    pub scheduled: Vec<TimedEntry>,
    /// Everything timed up to here, its time having come, waits in its line now.
    pub promoted: Option<DueMark>,
    /// Came in.
    pub accepted: Vec<Accepted>,
    /// Came in through the inbox.
    pub received: Vec<Received>,
    /// How far the inbox is read now.
    pub inbox_read: Option<InboxMark>,
    /// Go out.
    pub claimed: Vec<Claimed>,
    /// Were read from their table: they wait in memory from here on.
    pub recalled: Vec<Recalled>,
    /// Are run again.
    pub reopened: Vec<Reopened>,
    /// What is due before this hour has its rows in windows; what is due later is kept apart until its
    /// window is made.
    pub kept_until: Option<Hour>,
    /// From here on what is written of these homes is kept apart: their window is on its way out.
    pub closing: Option<HourRange>,
    /// Nothing in the window of these homes is needed any more.
    pub let_go: Option<HourRange>,
    /// The database that this row is written to, if it isn't that of the rows before.
    pub database: Option<DatabaseIdentity>,
}

impl Delta {
    /// How many bytes its row takes, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        let read =
            self.timed.len() + self.scheduled.len() + self.received.len() + self.reopened.len();
        let ended = self.cancelled.len() + self.closed.len() + self.retried.len();
        let moved = self.requeued.len() + self.accepted.len() + self.claimed.len();
        let recalled: usize = self
            .recalled
            .iter()
            .map(|recalled| recalled.runs.len())
            .sum();
        32 + 16 * (read + recalled + self.saved.len()) + 4 * ended + 6 * moved
    }

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
