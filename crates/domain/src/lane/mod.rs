//! The lane: the unit of storage and of ownership, as its owner holds it in memory.
//!
//! One change, one row: a [`Draft`] plans, changing nothing; its sealed [`Row`] is committed with all
//! that belongs to it; only [`Lane::apply`] changes a lane, in live running and in recovery alike. So
//! an aborted batch leaves no trace in memory, and replaying the chain gives the same memory.

mod apply;
mod bytes;
mod codec;
mod draft;
mod round;
mod row;
mod snapshot;
mod stored;
mod waiting;

#[cfg(test)]
mod histories;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{Budgets, ExecutionId, Hour, HourRange, HourSet, LaneId, Micros, Priority};

pub use apply::ApplyError;
pub use codec::CodecError;
pub use draft::{Draft, Ending, InTable, NotFound, NotOver, Stale};
pub use round::Round;
pub use row::{
    Accepted, Cancelled, CheckpointMark, Claimed, Closed, DatabaseIdentity, Delta, InboxMark, Link,
    Received, Reopened, Requeued, Retried, Row, RowKind, Saved, TimedEntry, Wait,
};
pub use stored::{Misread, Recalled, Span, Stored, StoredPage};
pub use waiting::{Run, WaitingSet};

/// What is waited for in one line: the unit of order and of choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class {
    /// The tenant's number.
    pub tenant: i32,
    /// The queue's number.
    pub queue: i32,
    /// How urgent.
    pub priority: Priority,
    /// The job type's number.
    pub job_type: i32,
    /// Workers were lost with it more than once: perhaps it takes them down. Suspects wait apart from the others,
    /// and run one at a time on a worker.
    pub suspect: bool,
}

impl Class {
    /// The line in which an execution of this one waits that has used up so much.
    #[must_use]
    pub fn after(self, budgets: Budgets) -> Self {
        Self {
            suspect: budgets.is_suspect(),
            ..self
        }
    }
}

/// A place in the order of due entries. Thousands may share a time, so the number is part of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct DueMark {
    /// The due time.
    pub due: Micros,
    /// The execution's number in the lane.
    pub seq: u64,
}

/// An execution that waits for its time, within the part of the `due` table that has been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timed {
    /// The line it will wait in.
    pub class: Class,
    /// The hour of its home window.
    pub home: Hour,
    /// What it has used up.
    pub budgets: Budgets,
    /// What it waits for.
    pub wait: Wait,
}

/// An execution that is claimed and whose outcome is not recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    /// The line it waited in.
    pub class: Class,
    /// The number of the row that claimed it: the only one whose result counts.
    pub fence: u64,
    /// The hour of its home window.
    pub home: Hour,
    /// When it entered the line.
    pub enqueued: Micros,
    /// When it was claimed.
    pub claimed: Micros,
    /// What it has used up.
    pub budgets: Budgets,
    /// The worker it was claimed for.
    pub worker: Arc<str>,
    /// Somebody cancelled it: nothing follows this attempt.
    pub cancelled: bool,
}

/// Running totals of one queue and priority since the lane began. Always: enqueued = dequeued + removed
/// + depth, and dequeued = acknowledged + rejected + inflight.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LineTotals {
    /// Entered the line: submitted, due again, taken back, run again.
    pub enqueued: u64,
    /// Claimed.
    pub dequeued: u64,
    /// Came back as success.
    pub acknowledged: u64,
    /// Came back as anything else.
    pub rejected: u64,
    /// Left the line unclaimed: cancelled.
    pub removed: u64,
    /// Ended as dead letters.
    pub dead_lettered: u64,
    /// Wait for their own time now.
    pub scheduled: u64,
    /// Wait for their next attempt's time now.
    pub retrying: u64,
}

/// Running totals of the lane: what its chain rows carry for everybody to read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Executions accepted, and those that were over and are run again.
    pub submitted: u64,
    /// Claims made.
    pub claimed: u64,
    /// Executions that reached a final state.
    pub finished: u64,
}

/// A lane in its owner's memory: nothing in it but what the chain's rows say.
#[derive(Clone, PartialEq, Debug)]
pub struct Lane {
    id: LaneId,
    link: Link,
    next_n: u64,
    epoch: i64,
    next_seq: u64,
    totals: Totals,
    lines: FxHashMap<(i32, Priority), LineTotals>,
    waiting: WaitingSet,
    running: FxHashMap<u64, Running>,
    /// The last checkpoints of those open executions that have any.
    saved: FxHashMap<u64, CheckpointMark>,
    timers: BTreeMap<DueMark, Timed>,
    due_read: DueMark,
    /// Entries of the `due` table that are over before they are read.
    skipped: BTreeSet<DueMark>,
    inbox_read: InboxMark,
    kept_until: Hour,
    closing: HourSet,
    let_go: HourSet,
    database: DatabaseIdentity,
}

impl Lane {
    /// Which lane it is.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Its last row: what the next one must follow.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// The lease's epoch under which its last owner took it.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The lane's totals.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The totals of each queue and priority that the lane has seen.
    pub fn lines(&self) -> impl Iterator<Item = (i32, Priority, &LineTotals)> {
        self.lines
            .iter()
            .map(|((queue, priority), totals)| (*queue, *priority, totals))
    }

    /// How many wait in a queue, at all priorities.
    #[must_use]
    pub fn depth(&self, queue: i32) -> u64 {
        let lines = Priority::ALL.map(|priority| self.lines.get(&(queue, priority)));
        let depth = |line: &LineTotals| line.enqueued.saturating_sub(line.dequeued + line.removed);
        lines.into_iter().flatten().map(depth).sum()
    }

    /// Whether anything runs that is less urgent than this.
    #[must_use]
    pub fn runs_less_urgent(&self, than: Priority) -> bool {
        let runs = |line: &LineTotals| line.dequeued > line.acknowledged + line.rejected;
        self.lines
            .iter()
            .any(|((_, priority), line)| *priority > than && runs(line))
    }

    /// What waits for a slot.
    #[must_use]
    pub fn waiting(&self) -> &WaitingSet {
        &self.waiting
    }

    /// What is claimed, by number.
    #[must_use]
    pub fn running(&self) -> &FxHashMap<u64, Running> {
        &self.running
    }

    /// What waits for its time and has been read.
    #[must_use]
    pub fn timers(&self) -> &BTreeMap<DueMark, Timed> {
        &self.timers
    }

    /// How far the lane's due entries have been read.
    #[must_use]
    pub fn due_read(&self) -> DueMark {
        self.due_read
    }

    /// How far the lane's inbox has been read.
    #[must_use]
    pub fn inbox_read(&self) -> &InboxMark {
        &self.inbox_read
    }

    /// What is due before this hour has its rows in windows; what is due later is kept apart.
    #[must_use]
    pub fn kept_until(&self) -> Hour {
        self.kept_until
    }

    /// Whether what is written of a home is kept apart, its window being on its way out.
    #[must_use]
    pub fn is_closing(&self, home: Hour) -> bool {
        self.closing.contains(home) || self.let_go.contains(home)
    }

    /// Whether it has said of a window that it is on its way out.
    #[must_use]
    pub fn is_turned_from(&self, window: HourRange) -> bool {
        self.closing.covers(window) || self.let_go.covers(window)
    }

    /// The homes whose windows are on their way out.
    #[must_use]
    pub fn closing(&self) -> &HourSet {
        &self.closing
    }

    /// The homes of whose windows nothing is needed any more.
    #[must_use]
    pub fn let_go(&self) -> &HourSet {
        &self.let_go
    }

    /// Whether any open execution has a checkpoint.
    #[must_use]
    pub fn has_saved(&self) -> bool {
        !self.saved.is_empty()
    }

    /// The last checkpoint of an open execution, if it has any.
    #[must_use]
    pub fn saved(&self, seq: u64) -> Option<CheckpointMark> {
        self.saved.get(&seq).copied()
    }

    /// The database that its rows were written to.
    #[must_use]
    pub fn database(&self) -> DatabaseIdentity {
        self.database
    }

    /// The open executions whose home is one of a window's hours, as far as memory knows them one by one; the
    /// others wait in the `due` table, or in their own (see [`Lane::stored_within`]).
    #[must_use]
    pub fn open_within(&self, window: HourRange) -> Vec<u64> {
        let waiting = self.waiting.runs().map(|(_, run)| run);
        let waiting = waiting.filter(|run| window.contains(run.home));
        let mut open: Vec<u64> = waiting.flat_map(Run::seqs).collect();
        let running = self.running.iter();
        open.extend(
            running
                .filter(|(_, r)| window.contains(r.home))
                .map(|(seq, _)| *seq),
        );
        let timers = self.timers.iter();
        open.extend(
            timers
                .filter(|(_, t)| window.contains(t.home))
                .map(|(mark, _)| mark.seq),
        );
        open.sort_unstable();
        open
    }

    /// Where executions wait in their table alone whose home may be one of a window's hours.
    #[must_use]
    pub fn stored_within(&self, window: HourRange) -> Vec<(Class, Span)> {
        let stored = self.waiting.stored();
        let stored = stored.map(|(class, stored)| (class, stored.span()));
        let within =
            |span: &Span| span.since.hour() < window.to && span.until.hour() >= window.from;
        stored.filter(|(_, span)| within(span)).collect()
    }

    /// The numbers of open executions that came through the inbox, as far as memory knows them.
    #[must_use]
    pub fn received(&self) -> FxHashSet<u64> {
        let waiting = self.waiting.runs().flat_map(|(_, run)| run.seqs());
        let timed = self.timers.keys().map(|mark| mark.seq);
        let open = waiting.chain(timed).chain(self.running.keys().copied());
        open.filter(|seq| *seq >= ExecutionId::FIRST_FOREIGN_SEQ)
            .collect()
    }

    /// Begins to plan the next row, at the database's time `at`.
    #[must_use]
    pub fn draft(&self, at: Micros) -> Draft<'_> {
        Draft::new(self, at)
    }

    /// The two rows by which a new owner takes the lane over: the first is in the old owner's way, the
    /// second lies so far ahead that no fence and no number comes again even if the database lost its
    /// last rows: a second ahead of the database's time, which no earlier owner has reached, since it began as far
    /// ahead of an earlier time and rows come slower than microseconds. (Not a second ahead of the last row alone: of
    /// two take-overs from the same row, the first of which was lost, both would go there.) Only where the
    /// database's clock was set back it counts from the last row.
    ///
    /// The second row says which database it was written to; in another one than before, whose transactions have
    /// other numbers, the inbox is read anew.
    #[must_use]
    pub fn take_over(
        &self,
        epoch: i64,
        database: DatabaseIdentity,
        at: Micros,
        batch: u128,
    ) -> [Row; 2] {
        const FENCE_JUMP: u64 = 1 << 20;
        const SEQ_JUMP: u64 = 1 << 24;
        let (next, ahead) = (self.link.next(batch).n, micros(at) + FENCE_JUMP);
        let to = match next < ahead {
            true => ahead,
            false => next + FENCE_JUMP,
        };
        let [mut blank, mut arrival] = self.rows_to(to, at, batch);
        (blank.epoch, arrival.epoch) = (epoch, epoch);
        arrival.kind = RowKind::TakeOver;
        arrival.next_seq += SEQ_JUMP;
        arrival.delta.database = (database != self.database).then_some(database);
        let moved = self.database.system != 0 && database.system != self.database.system;
        arrival.delta.inbox_read = moved.then(InboxMark::default);
        [blank, arrival]
    }

    /// The two rows by which its owner takes the chain to where rows of `at` belong, so that none of an old
    /// window is needed any more.
    #[must_use]
    pub fn move_on(&self, at: Micros, batch: u128) -> [Row; 2] {
        let next = self.link.next(batch).n;
        self.rows_to(micros(at).max(next + 1), at, batch)
    }

    /// An empty row that says where the chain goes on, and the one there.
    fn rows_to(&self, n: u64, at: Micros, batch: u128) -> [Row; 2] {
        let jump = self.link.next(batch);
        let to = Link { n, batch };
        let blank = Row {
            lane: self.id,
            link: jump,
            previous: self.link,
            kind: RowKind::Jump { to: to.n },
            epoch: self.epoch,
            at,
            next_seq: self.next_seq,
            totals: self.totals,
            delta: Delta::default(),
        };
        let arrival = Row {
            link: to,
            previous: jump,
            kind: RowKind::Work,
            ..blank.clone()
        };
        [blank, arrival]
    }
}

/// A time as rows are numbered by it.
fn micros(time: Micros) -> u64 {
    u64::try_from(time.0).unwrap_or(0)
}
