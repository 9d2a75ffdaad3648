use std::sync::Arc;

use super::{
    Accepted, Claimed, Delta, DueMark, Lane, LineTotals, Row, RowKind, Run, Running, Timed, Totals,
    WaitingSet,
};
use crate::{Budgets, FinalState, LaneId, Priority};

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
            timers: Default::default(),
            due_read: row.delta.due_read.unwrap_or_default(),
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
        self.apply_endings(row)?;
        if let Some(mark) = row.delta.promoted {
            self.promote(row, mark);
        }
        for accepted in &row.delta.accepted {
            self.apply_accepted(row, accepted)?;
        }
        for claimed in &row.delta.claimed {
            self.apply_claimed(row, claimed)?;
        }
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

    fn apply_endings(&mut self, row: &Row) -> Result<(), ApplyError> {
        for closed in &row.delta.closed {
            let running = self.take_running(row, closed.seq)?;
            self.totals.finished += 1;
            let line = self.line_of(&running);
            match closed.state {
                FinalState::Succeeded => line.acknowledged += 1,
                FinalState::Failed => line.rejected += 1,
                FinalState::DeadLettered => {
                    line.rejected += 1;
                    line.dead_lettered += 1;
                }
            }
        }
        for retried in &row.delta.retried {
            let running = self.take_running(row, retried.seq)?;
            let line = self.line_of(&running);
            line.rejected += 1;
            line.retrying += 1;
            let mark = DueMark {
                due: retried.due,
                seq: retried.seq,
            };
            // Beyond what has been read it waits in its table, to be read with the others.
            if mark <= self.due_read {
                self.timers.insert(mark, timed(&running, retried.budgets));
            }
        }
        for requeued in &row.delta.requeued {
            let running = self.take_running(row, requeued.seq)?;
            let line = self.line_of(&running);
            line.rejected += 1;
            line.enqueued += 1;
            self.waiting.push_front(
                running.class,
                again(&running, requeued.seq, requeued.budgets, row),
            );
        }
        Ok(())
    }

    fn apply_due(&mut self, row: &Row) -> Result<(), ApplyError> {
        let Delta {
            timed, due_read, ..
        } = &row.delta;
        for entry in timed {
            let value = Timed {
                class: entry.class,
                home: entry.home,
                budgets: entry.budgets,
            };
            if entry.mark <= self.due_read || self.timers.insert(entry.mark, value).is_some() {
                return Err(self.misfit(row, format!("due entry {:?} was read before", entry.mark)));
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
        }
        Ok(())
    }

    fn promote(&mut self, row: &Row, mark: DueMark) {
        while let Some(entry) = self
            .timers
            .first_entry()
            .filter(|entry| *entry.key() <= mark)
        {
            let (DueMark { seq, .. }, timed) = entry.remove_entry();
            let line = self
                .lines
                .entry((timed.class.queue, timed.class.priority))
                .or_default();
            line.retrying -= 1;
            line.enqueued += 1;
            self.waiting.push_back(timed.class, timed.run(seq, row));
        }
    }

    fn apply_accepted(&mut self, row: &Row, accepted: &Accepted) -> Result<(), ApplyError> {
        let Accepted {
            class,
            first,
            count,
        } = *accepted;
        if first < self.next_seq || first + u64::from(count) > row.next_seq {
            return Err(self.misfit(row, format!("{count} from {first} lie outside its numbers")));
        }
        let (home, enqueued) = (row.at.hour(), row.at);
        let run = Run {
            first,
            count,
            home,
            enqueued,
            budgets: Budgets::default(),
        };
        self.waiting.push_back(class, run);
        self.line(class.queue, class.priority).enqueued += u64::from(count);
        self.totals.submitted += u64::from(count);
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

fn timed(running: &Running, budgets: Budgets) -> Timed {
    Timed {
        class: running.class,
        home: running.home,
        budgets,
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

impl Totals {
    /// The totals after `delta`, which follows these.
    #[must_use]
    pub(super) fn after(self, delta: &Delta) -> Self {
        let accepted: u64 = delta.accepted.iter().map(|a| u64::from(a.count)).sum();
        let claimed: u64 = delta.claimed.iter().map(|c| u64::from(c.count)).sum();
        Self {
            submitted: self.submitted + accepted,
            claimed: self.claimed + claimed,
            finished: self.finished + delta.closed.len() as u64,
        }
    }
}
