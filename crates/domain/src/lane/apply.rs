use std::sync::Arc;

use super::{
    Accepted, Cancelled, Claimed, Class, Delta, DueMark, Lane, LineTotals, Received, Reopened, Row,
    RowKind, Run, Running, Saved, Stored, Timed, TimedEntry, Totals, Wait, WaitingSet,
};
use crate::{Budgets, ExecutionId, FinalState, LaneId, Priority};

/// A row that doesn't fit the lane it is applied to: memory and chain disagree, and the lane must be
/// dropped and read anew.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("lane {lane}, row {n}: {what}")]
pub struct ApplyError {
    /// Whose.
    pub lane: LaneId,
    /// The row's number.
    pub n: u64,
    /// What doesn't fit.
    pub what: String,
}

impl Lane {
    /// The lane as its first row makes it.
    ///
    /// # Errors
    /// The row is no genesis row.
    pub fn begin(row: &Row) -> Result<Self, ApplyError> {
        let lane = Self {
            id: row.lane,
            link: row.link,
            next_n: row.link.n + 1,
            epoch: row.epoch,
            next_seq: row.next_seq,
            totals: row.totals,
            lines: Default::default(),
            waiting: WaitingSet::default(),
            running: Default::default(),
            saved: Default::default(),
            timers: Default::default(),
            due_read: row.delta.due_read.unwrap_or_default(),
            skipped: Default::default(),
            inbox_read: row.delta.inbox_read.clone().unwrap_or_default(),
            kept_until: row.delta.kept_until.unwrap_or_default(),
            closing: Default::default(),
            let_go: Default::default(),
            database: row.delta.database.unwrap_or_default(),
        };
        match row.kind {
            RowKind::Genesis => Ok(lane),
            kind => Err(lane.misfit(
                row,
                format!("a chain begins with a genesis row, not {kind:?}"),
            )),
        }
    }

    /// Changes the lane as a committed row says: the only way in which it ever changes.
    ///
    /// # Errors
    /// The row doesn't follow the lane's last one, or names what isn't there. The lane is then of no use
    /// any more.
    pub fn apply(&mut self, row: &Row) -> Result<(), ApplyError> {
        self.check_place(row)?;
        self.apply_due(row)?;
        for cancelled in &row.delta.cancelled {
            self.apply_cancelled(row, cancelled)?;
        }
        for saved in &row.delta.saved {
            self.apply_saved(row, saved)?;
        }
        self.apply_endings(row)?;
        self.apply_scheduled(row)?;
        if let Some(mark) = row.delta.promoted {
            self.promote(row, mark);
        }
        for accepted in &row.delta.accepted {
            self.apply_accepted(row, accepted)?;
        }
        for received in &row.delta.received {
            self.apply_received(row, received)?;
        }
        for claimed in &row.delta.claimed {
            self.apply_claimed(row, claimed)?;
        }
        for recalled in &row.delta.recalled {
            let recall = self.waiting.recall(recalled);
            recall.map_err(|misread| self.misfit(row, misread.to_string()))?;
        }
        for reopened in &row.delta.reopened {
            self.apply_reopened(row, reopened)?;
        }
        self.apply_marks(row)?;
        self.apply_place(row)
    }

    fn check_place(&self, row: &Row) -> Result<(), ApplyError> {
        if row.lane != self.id || row.previous != self.link {
            return Err(self.misfit(row, format!("it doesn't follow row {}", self.link.n)));
        }
        if row.link.n != self.next_n {
            return Err(self.misfit(row, format!("row {} is expected", self.next_n)));
        }
        match row.kind {
            RowKind::Genesis => Err(self.misfit(row, "a chain has one genesis row".into())),
            RowKind::Jump { to } if to <= row.link.n => {
                Err(self.misfit(row, format!("it jumps back to {to}")))
            }
            _ => Ok(()),
        }
    }

    fn apply_place(&mut self, row: &Row) -> Result<(), ApplyError> {
        if row.next_seq < self.next_seq {
            return Err(self.misfit(row, format!("its next number is below {}", self.next_seq)));
        }
        if row.totals != self.totals {
            return Err(self.misfit(row, format!("its totals are not {:?}", self.totals)));
        }
        self.next_seq = row.next_seq;
        self.link = row.link;
        self.next_n = match row.kind {
            RowKind::Jump { to } => to,
            _ => row.link.n + 1,
        };
        self.epoch = row.epoch;
        Ok(())
    }

    fn apply_saved(&mut self, row: &Row, saved: &Saved) -> Result<(), ApplyError> {
        let Saved { seq, mark } = *saved;
        let fence = self.running.get(&seq).map(|running| running.fence);
        let before = self.saved.insert(seq, mark);
        if fence != Some(mark.fence) || before.is_some_and(|before| before >= mark) {
            return Err(self.misfit(row, format!("{seq} saves {mark:?} after {before:?}")));
        }
        Ok(())
    }

    fn apply_endings(&mut self, row: &Row) -> Result<(), ApplyError> {
        for closed in &row.delta.closed {
            let running = self.take_running(row, closed.seq)?;
            self.saved.remove(&closed.seq);
            self.totals.finished += 1;
            let line = self.line_of(&running);
            match closed.state {
                FinalState::Succeeded => line.acknowledged += 1,
                FinalState::Failed | FinalState::Cancelled => line.rejected += 1,
                FinalState::DeadLettered => {
                    line.rejected += 1;
                    line.dead_lettered += 1;
                }
            }
        }
        for retried in &row.delta.retried {
            let running = self.take_going_on(row, retried.seq)?;
            let line = self.line_of(&running);
            line.rejected += 1;
            line.retrying += 1;
            let mark = DueMark {
                due: retried.due,
                seq: retried.seq,
            };
            // Beyond what has been read it waits in its table, to be read with the others.
            if mark <= self.due_read {
                let timed = Timed {
                    class: Class {
                        suspect: retried.suspect,
                        ..running.class
                    },
                    home: running.home,
                    budgets: retried.budgets,
                    wait: Wait::Retrying,
                };
                self.timers.insert(mark, timed);
            }
        }
        for requeued in &row.delta.requeued {
            let running = self.take_going_on(row, requeued.seq)?;
            let line = self.line_of(&running);
            line.rejected += 1;
            line.enqueued += 1;
            let class = Class {
                suspect: requeued.suspect,
                ..running.class
            };
            let run = again(&running, requeued.seq, requeued.budgets, row);
            self.waiting.push_front(class, run);
        }
        Ok(())
    }

    fn apply_due(&mut self, row: &Row) -> Result<(), ApplyError> {
        let Delta {
            timed, due_read, ..
        } = &row.delta;
        for entry in timed {
            let (mark, value) = entry.split();
            let over = self.skipped.contains(&mark);
            if mark <= self.due_read || over || self.timers.insert(mark, value).is_some() {
                return Err(self.misfit(row, format!("due entry {mark:?} is read or over")));
            }
        }
        if let Some(mark) = due_read {
            if *mark < self.due_read {
                return Err(self.misfit(
                    row,
                    format!("due entries were read up to {:?}", self.due_read),
                ));
            }
            self.due_read = *mark;
            self.skipped = self.skipped.split_off(&mark.after());
        }
        Ok(())
    }

    fn apply_cancelled(&mut self, row: &Row, cancelled: &Cancelled) -> Result<(), ApplyError> {
        let there = match *cancelled {
            Cancelled::Waiting { seq, class } => {
                self.line(class.queue, class.priority).removed += 1;
                self.waiting.remove(class, seq).is_some()
            }
            Cancelled::Timed(mark) => {
                let timed = self.timers.remove(&mark);
                let count = timed.map(|timed| *self.waiting_for_time(&timed) -= 1);
                count.is_some()
            }
            Cancelled::Tabled(entry) => {
                *self.waiting_for_time(&entry.split().1) -= 1;
                entry.mark > self.due_read && self.skipped.insert(entry.mark)
            }
            Cancelled::Stored { seq, class } => {
                self.line(class.queue, class.priority).removed += 1;
                self.waiting.remove_stored(class, seq)
            }
            Cancelled::Running(seq) => {
                let running = self.running.get_mut(&seq);
                running.map(|running| running.cancelled = true).is_some()
            }
        };
        if !there {
            return Err(self.misfit(row, format!("{cancelled:?} isn't there")));
        }
        self.totals.finished += u64::from(cancelled.is_over());
        if cancelled.is_over() {
            self.saved.remove(&cancelled.seq());
        }
        Ok(())
    }

    fn apply_scheduled(&mut self, row: &Row) -> Result<(), ApplyError> {
        for entry in &row.delta.scheduled {
            let seq = entry.mark.seq;
            let own = seq < ExecutionId::FIRST_FOREIGN_SEQ;
            if own && !(self.next_seq..row.next_seq).contains(&seq) {
                return Err(self.misfit(row, format!("{seq} lies outside its numbers")));
            }
            let (mark, timed) = entry.split();
            // Beyond what has been read it waits in its table, to be read with the others.
            if mark <= self.due_read && self.timers.insert(mark, timed).is_some() {
                return Err(self.misfit(row, format!("{seq} comes twice")));
            }
            *self.waiting_for_time(&timed) += 1;
            self.totals.submitted += 1;
        }
        Ok(())
    }

    /// How many of its line wait for the same kind of time.
    fn waiting_for_time(&mut self, timed: &Timed) -> &mut u64 {
        let line = self.line(timed.class.queue, timed.class.priority);
        match timed.wait {
            Wait::Scheduled => &mut line.scheduled,
            Wait::Retrying => &mut line.retrying,
        }
    }

    fn promote(&mut self, row: &Row, mark: DueMark) {
        let later = self.timers.split_off(&mark.after());
        for (DueMark { seq, .. }, timed) in std::mem::replace(&mut self.timers, later) {
            *self.waiting_for_time(&timed) -= 1;
            self.line(timed.class.queue, timed.class.priority).enqueued += 1;
            self.waiting.push_back(timed.class, timed.run(seq, row));
        }
    }

    fn apply_accepted(&mut self, row: &Row, accepted: &Accepted) -> Result<(), ApplyError> {
        let Accepted {
            class,
            first,
            count,
            stored,
        } = *accepted;
        if first < self.next_seq || first + u64::from(count) > row.next_seq {
            return Err(self.misfit(row, format!("{count} from {first} lie outside its numbers")));
        }
        if stored {
            let stored = Stored::new(first, count, row.at);
            self.waiting.push_stored(class, stored);
        } else {
            let (home, enqueued) = (row.at.hour(), row.at);
            let run = Run {
                first,
                count,
                home,
                enqueued,
                budgets: Budgets::default(),
            };
            self.waiting.push_back(class, run);
        }
        self.line(class.queue, class.priority).enqueued += u64::from(count);
        self.totals.submitted += u64::from(count);
        Ok(())
    }

    fn apply_received(&mut self, row: &Row, received: &Received) -> Result<(), ApplyError> {
        let Received { seq, class, home } = *received;
        if seq < ExecutionId::FIRST_FOREIGN_SEQ || self.running.contains_key(&seq) {
            return Err(self.misfit(row, format!("{seq} can't come through the inbox")));
        }
        let enqueued = row.at;
        let run = Run {
            first: seq,
            count: 1,
            home,
            enqueued,
            budgets: Budgets::default(),
        };
        self.waiting.push_back(class, run);
        self.line(class.queue, class.priority).enqueued += 1;
        self.totals.submitted += 1;
        Ok(())
    }

    fn apply_reopened(&mut self, row: &Row, reopened: &Reopened) -> Result<(), ApplyError> {
        let Reopened {
            seq,
            class,
            home,
            saved,
        } = *reopened;
        if self.running.contains_key(&seq) || self.waiting.find(class, seq).is_some() {
            return Err(self.misfit(row, format!("{seq} is run again and isn't over")));
        }
        self.saved.extend(saved.map(|mark| (seq, mark)));
        let run = Run {
            first: seq,
            count: 1,
            home,
            enqueued: row.at,
            budgets: Budgets::default(),
        };
        self.waiting.push_back(class, run);
        self.line(class.queue, class.priority).enqueued += 1;
        self.totals.submitted += 1;
        Ok(())
    }

    fn apply_marks(&mut self, row: &Row) -> Result<(), ApplyError> {
        let delta = &row.delta;
        if let Some(mark) = &delta.inbox_read {
            self.inbox_read = mark.clone();
        }
        if let Some(hour) = delta.kept_until {
            if hour < self.kept_until {
                return Err(self.misfit(row, format!("windows reach to {}", self.kept_until)));
            }
            self.kept_until = hour;
        }
        if let Some(range) = delta.closing {
            self.closing.insert(range);
        }
        if let Some(range) = delta.let_go {
            if !self.closing.covers(range) {
                return Err(self.misfit(row, format!("{range:?} is let go and wasn't closing")));
            }
            self.closing.remove(range);
            self.let_go.insert(range);
        }
        if let Some(database) = delta.database {
            self.database = database;
        }
        Ok(())
    }

    fn apply_claimed(&mut self, row: &Row, claimed: &Claimed) -> Result<(), ApplyError> {
        let Claimed {
            class,
            worker,
            first,
            count,
        } = claimed;
        let Some(run) = self.waiting.pop_front(*class, *first, *count) else {
            return Err(self.misfit(row, format!("{count} from {first} don't head their line")));
        };
        for seq in run.first..run.first + u64::from(run.count) {
            let running = Running {
                class: *class,
                fence: row.link.n,
                home: run.home,
                enqueued: run.enqueued,
                claimed: row.at,
                budgets: run.budgets,
                worker: Arc::clone(worker),
                cancelled: false,
            };
            self.running.insert(seq, running);
        }
        self.line(class.queue, class.priority).dequeued += u64::from(*count);
        self.totals.claimed += u64::from(*count);
        Ok(())
    }

    fn take_running(&mut self, row: &Row, seq: u64) -> Result<Running, ApplyError> {
        self.running
            .remove(&seq)
            .ok_or_else(|| self.misfit(row, format!("{seq} ends and isn't running")))
    }

    /// The same for one that is not over: somebody who cancelled it was promised that nothing follows.
    fn take_going_on(&mut self, row: &Row, seq: u64) -> Result<Running, ApplyError> {
        let running = self.take_running(row, seq)?;
        match running.cancelled {
            true => Err(self.misfit(row, format!("{seq} goes on and was cancelled"))),
            false => Ok(running),
        }
    }

    fn line_of(&mut self, running: &Running) -> &mut LineTotals {
        self.line(running.class.queue, running.class.priority)
    }

    fn line(&mut self, queue: i32, priority: Priority) -> &mut LineTotals {
        self.lines.entry((queue, priority)).or_default()
    }

    fn misfit(&self, row: &Row, what: String) -> ApplyError {
        ApplyError {
            lane: self.id,
            n: row.link.n,
            what,
        }
    }
}

impl Timed {
    /// The same as an entry.
    pub(super) fn entry(&self, mark: DueMark) -> TimedEntry {
        let Self {
            class,
            home,
            budgets,
            wait,
        } = *self;
        TimedEntry {
            mark,
            class,
            home,
            budgets,
            wait,
        }
    }

    /// The run that the execution `seq` is once its time has come, by `row`.
    pub(super) fn run(&self, seq: u64, row: &Row) -> Run {
        Run {
            first: seq,
            count: 1,
            home: self.home,
            enqueued: row.at,
            budgets: self.budgets,
        }
    }
}

fn again(running: &Running, seq: u64, budgets: Budgets, row: &Row) -> Run {
    Run {
        first: seq,
        count: 1,
        home: running.home,
        enqueued: row.at,
        budgets,
    }
}

impl TimedEntry {
    pub(super) fn split(&self) -> (DueMark, Timed) {
        let Self {
            mark,
            class,
            home,
            budgets,
            wait,
        } = *self;
        let timed = Timed {
            class,
            home,
            budgets,
            wait,
        };
        (mark, timed)
    }
}

impl DueMark {
    /// The first place after this one.
    pub(super) fn after(self) -> Self {
        Self {
            seq: self.seq.saturating_add(1),
            ..self
        }
    }
}

impl Totals {
    /// The totals after `delta`, which follows these.
    #[must_use]
    pub(super) fn after(self, delta: &Delta) -> Self {
        let accepted: u64 = delta.accepted.iter().map(|a| u64::from(a.count)).sum();
        let claimed: u64 = delta.claimed.iter().map(|c| u64::from(c.count)).sum();
        let over = delta.cancelled.iter().filter(|c| c.is_over()).count();
        let singly = delta.scheduled.len() + delta.received.len() + delta.reopened.len();
        Self {
            submitted: self.submitted + accepted + singly as u64,
            claimed: self.claimed + claimed,
            finished: self.finished + (delta.closed.len() + over) as u64,
        }
    }
}
