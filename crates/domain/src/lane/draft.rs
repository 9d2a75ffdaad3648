use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::waiting::remove_from;
use super::{
    Accepted, Cancelled, CheckpointMark, Claimed, Class, Closed, Delta, DueMark, InboxMark, Lane,
    Misread, Recalled, Received, Reopened, Requeued, Retried, Row, RowKind, Run, Running, Saved,
    StoredPage, Timed, TimedEntry, Wait,
};
use crate::{Budgets, Decision, Hour, HourRange, Micros, Verdict};

/// The next row of a lane while it is planned: it reads the lane and changes nothing.
///
/// Its steps go in the order of [`Delta`]'s fields: what was read from the `due` table first, then
/// cancellations, checkpoints, the endings, what was submitted for later, promotion, acceptance, and the claims last;
/// [`Draft::peek`] shows the lines as the claims will find them. What it recalls is there for the next row.
#[derive(Debug)]
pub struct Draft<'a> {
    lane: &'a Lane,
    at: Micros,
    next_seq: u64,
    delta: Delta,
    /// Running before, and ended by this draft.
    ended: FxHashSet<u64>,
    /// Cancelled by this draft.
    cancelled: FxHashSet<u64>,
    /// The last checkpoints of what saves something in this draft, or is run again.
    saved: FxHashMap<u64, CheckpointMark>,
    /// Memory is full: what is accepted into lines of as many runs stays in its table.
    full_from: Option<usize>,
    lines: FxHashMap<Class, Line>,
}

/// What the draft does to one line.
#[derive(Default, Debug)]
struct Line {
    /// Taken back, before everything else.
    front: VecDeque<Run>,
    /// What the lane has of it.
    own: Own,
    /// Promoted: after what the lane has.
    promoted: VecDeque<Run>,
    /// Accepted, after everything else.
    back: VecDeque<Run>,
    /// Behind that, something was accepted that stays in its table: whatever else comes must wait for it.
    stored: bool,
}

/// The runs that the lane has of a line, less what the draft took.
#[derive(Debug)]
enum Own {
    /// They are as they were, but for the claims at their head.
    Claimed {
        /// How many runs are claimed whole.
        runs: usize,
        /// How many of the run after those are claimed.
        of_run: u32,
    },
    /// Some were cancelled: what is left of them.
    Left(VecDeque<Run>),
}

impl Default for Own {
    fn default() -> Self {
        Self::Claimed { runs: 0, of_run: 0 }
    }
}

/// What an attempt's end makes of its execution, as the row will say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It is over.
    Closed,
    /// It will be tried again then.
    Retried {
        /// When.
        due: Micros,
        /// Its entry must be written to the `due` table: it lies beyond what has been read.
        to_table: bool,
    },
    /// It waits again.
    Requeued,
}

/// Where an execution that is to be cancelled may be but in memory, as its rows tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InTable {
    /// Nowhere.
    No,
    /// It waits for a time in the `due` table.
    Due,
    /// It was accepted for at once and has no outcome: it may be one of many that wait in their table.
    Fresh,
}

/// There is nothing of that number to be cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no open execution has this number")]
pub struct NotFound;

/// It isn't over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the execution isn't over")]
pub struct NotOver;

/// The result's fence isn't the running one's: somebody else has the right, or it is over already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the fence is not that of a running attempt")]
pub struct Stale;

impl<'a> Draft<'a> {
    pub(super) fn new(lane: &'a Lane, at: Micros) -> Self {
        Self {
            lane,
            at,
            next_seq: lane.next_seq,
            delta: Delta::default(),
            ended: FxHashSet::default(),
            cancelled: FxHashSet::default(),
            saved: FxHashMap::default(),
            full_from: None,
            lines: FxHashMap::default(),
        }
    }

    /// The lane that it plans for.
    #[must_use]
    pub fn lane(&self) -> &'a Lane {
        self.lane
    }

    /// When it is planned.
    #[must_use]
    pub fn at(&self) -> Micros {
        self.at
    }

    /// The number that its row will have: the fence of what it claims.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.lane.link.n + 1
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delta.is_empty()
    }

    /// Memory is full: what is accepted from here on stays in its table where a line has `runs` runs in memory,
    /// or where the one before it does.
    pub fn store_beyond(&mut self, runs: usize) {
        self.full_from = Some(runs);
    }

    /// Whether what is accepted into a line stays in its table.
    #[must_use]
    pub fn stores(&self, class: Class) -> bool {
        let waiting = &self.lane.waiting;
        let long = |runs| waiting.head(class).is_some_and(|head| head.len() >= runs);
        let full = |runs| long(runs) || waiting.next_stored(class).is_some();
        self.full_from.is_some_and(full)
    }

    /// Accepts `count` executions of a class; gives the first one's number.
    pub fn accept(&mut self, class: Class, count: u32) -> u64 {
        let first = self.next_seq;
        self.next_seq += u64::from(count);
        let stored = self.stores(class);
        self.delta.accepted.push(Accepted {
            class,
            first,
            count,
            stored,
        });
        if stored {
            self.delta_line(class).stored = true;
            return first;
        }
        let (home, enqueued) = (self.at.hour(), self.at);
        let run = Run {
            first,
            count,
            home,
            enqueued,
            budgets: Budgets::default(),
        };
        self.push_back(class, run);
        first
    }

    /// Accepts an execution that came through the inbox, with the number that the database gave it.
    pub fn receive(&mut self, received: Received) {
        let Received { seq, class, home } = received;
        let run = Run {
            first: seq,
            count: 1,
            home,
            enqueued: self.at,
            budgets: Budgets::default(),
        };
        self.push_back(class, run);
        self.delta.received.push(received);
    }

    /// Notes how far the inbox is read.
    pub fn read_inbox(&mut self, mark: InboxMark) {
        self.delta.inbox_read = Some(mark);
    }

    /// Accepts an execution that is due at a later time; gives its number.
    pub fn schedule(&mut self, class: Class, due: Micros) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.schedule_numbered(class, DueMark { due, seq });
        seq
    }

    /// Accepts an execution that is due at a later time and has a number.
    pub fn schedule_numbered(&mut self, class: Class, mark: DueMark) {
        self.delta.scheduled.push(TimedEntry {
            mark,
            class,
            home: mark.due.hour(),
            budgets: Budgets::default(),
            wait: Wait::Scheduled,
        });
    }

    /// Whether an entry must be written to the `due` table: it lies beyond what has been read of it.
    #[must_use]
    pub fn is_beyond(&self, mark: DueMark) -> bool {
        mark > self.due_read()
    }

    /// Cancels an execution that waits in a line, for a time, or runs. `entry` tells what the rows know
    /// of it: its line, and its time if it waits for one; `rows`, where they know it to be. Says whether it is
    /// over by that; if not, it runs.
    ///
    /// # Errors
    /// [`NotFound`]: it does none of these, or ended earlier in this draft.
    pub fn cancel(&mut self, entry: TimedEntry, rows: InTable) -> Result<bool, NotFound> {
        let (mark, class) = (entry.mark, entry.class);
        let seq = mark.seq;
        if self.cancelled.contains(&seq) || self.ended.contains(&seq) {
            return Err(NotFound);
        }
        let cancelled = if self.lane.running.contains_key(&seq) {
            Cancelled::Running(seq)
        } else if self.remove_waiting(class, seq) {
            Cancelled::Waiting { seq, class }
        } else if self.lane.timers.contains_key(&mark) || self.is_read_now(mark) {
            Cancelled::Timed(mark)
        } else if rows == InTable::Due && self.is_beyond(mark) && !self.lane.skipped.contains(&mark)
        {
            Cancelled::Tabled(entry)
        } else if rows == InTable::Fresh && self.lane.waiting.is_stored(class, seq) {
            Cancelled::Stored { seq, class }
        } else {
            return Err(NotFound);
        };
        self.cancelled.insert(seq);
        self.delta.cancelled.push(cancelled);
        Ok(cancelled.is_over())
    }

    /// Whether somebody cancelled a running execution, earlier or in this draft.
    #[must_use]
    pub fn is_cancelled(&self, seq: u64) -> bool {
        let running = self.lane.running.get(&seq);
        running.is_some_and(|running| running.cancelled) || self.cancelled.contains(&seq)
    }

    fn is_read_now(&self, mark: DueMark) -> bool {
        self.delta.timed.iter().any(|entry| entry.mark == mark)
    }

    /// Takes an execution out of its line. Not to be called once something was claimed.
    fn remove_waiting(&mut self, class: Class, seq: u64) -> bool {
        let Some(runs) = self.lane.waiting.head(class) else {
            return false;
        };
        let line = self.lines.entry(class).or_default();
        let mut left = match &line.own {
            Own::Left(left) => left.clone(),
            Own::Claimed { .. } => runs.clone(),
        };
        if remove_from(&mut left, seq).is_some() {
            line.own = Own::Left(left);
            return true;
        }
        // Behind what is to be read, nothing is claimed by this draft.
        self.lane.waiting.find(class, seq).is_some()
    }

    /// What is due before this hour has its rows in windows.
    #[must_use]
    pub fn kept_until(&self) -> Hour {
        self.delta.kept_until.unwrap_or(self.lane.kept_until)
    }

    /// What is due before `hour` has its rows in windows from here on.
    pub fn keep_until(&mut self, hour: Hour) {
        self.delta.kept_until = Some(hour);
    }

    /// From here on what is written of these homes is kept apart.
    pub fn close(&mut self, window: HourRange) {
        self.delta.closing = Some(window);
    }

    /// Nothing in the window of these homes is needed any more.
    pub fn let_go(&mut self, window: HourRange) {
        self.delta.let_go = Some(window);
    }

    /// The running attempt that a result with `fence` may end.
    ///
    /// # Errors
    /// [`Stale`]: the execution isn't running, runs with another fence, or ended earlier in this draft.
    pub fn running(&self, seq: u64, fence: u64) -> Result<&'a Running, Stale> {
        let running = self.lane.running.get(&seq).ok_or(Stale)?;
        if running.fence != fence || self.ended.contains(&seq) {
            return Err(Stale);
        }
        Ok(running)
    }

    /// Saves a checkpoint of a running execution. Says whether it is beyond the last one; if not, that or a later
    /// one of the same attempt is there already, or will be with this draft's row. Before the endings.
    ///
    /// # Errors
    /// [`Stale`], as [`Draft::running`].
    pub fn save(&mut self, seq: u64, mark: CheckpointMark) -> Result<bool, Stale> {
        self.running(seq, mark.fence)?;
        let is_later = self.saved(seq).is_none_or(|last| mark > last);
        if is_later {
            self.saved.insert(seq, mark);
            self.delta.saved.push(Saved { seq, mark });
        }
        Ok(is_later)
    }

    /// The last checkpoint of an execution, as it is after this draft's row.
    #[must_use]
    pub fn saved(&self, seq: u64) -> Option<CheckpointMark> {
        let new = self.saved.get(&seq).copied();
        new.or_else(|| self.lane.saved(seq))
    }

    /// Ends the attempt of `seq` with `fence` as decided.
    ///
    /// # Errors
    /// [`Stale`], as [`Draft::running`].
    pub fn end(&mut self, seq: u64, fence: u64, decision: &Decision) -> Result<Ending, Stale> {
        let running = self.running(seq, fence)?;
        self.ended.insert(seq);
        let budgets = decision.budgets;
        Ok(match decision.verdict {
            Verdict::Close(state) => {
                self.delta.closed.push(Closed { seq, state });
                Ending::Closed
            }
            Verdict::RetryAfter(wait) => {
                let due = self.at.plus(wait);
                let suspect = running.class.after(budgets).suspect;
                self.delta.retried.push(Retried {
                    seq,
                    due,
                    budgets,
                    suspect,
                });
                Ending::Retried {
                    due,
                    to_table: DueMark { due, seq } > self.due_read(),
                }
            }
            Verdict::Requeue => {
                let class = running.class.after(budgets);
                let suspect = class.suspect;
                self.delta.requeued.push(Requeued {
                    seq,
                    budgets,
                    suspect,
                });
                let (home, enqueued) = (running.home, self.at);
                let run = Run {
                    first: seq,
                    count: 1,
                    home,
                    enqueued,
                    budgets,
                };
                self.delta_line(class).front.push_front(run);
                Ending::Requeued
            }
        })
    }

    /// Takes in due entries that were read from the table: all there are after the lane's own mark and
    /// up to `mark`.
    pub fn read_due(&mut self, mark: DueMark, entries: impl IntoIterator<Item = TimedEntry>) {
        let over = |entry: &TimedEntry| self.lane.skipped.contains(&entry.mark);
        let entries = entries.into_iter().filter(|entry| !over(entry));
        self.delta.timed.extend(entries);
        self.delta.due_read = Some(mark);
    }

    /// Moves everything whose time has come into its line, before what this draft accepts. At most once, after
    /// everything that may be timed. Gives how many came to each line, in the order in which they did.
    pub fn promote(&mut self) -> Vec<(Class, u64)> {
        let now = DueMark {
            due: self.at,
            seq: u64::MAX,
        };
        let ripe = self.ripe(now);
        let mut counts: Vec<(Class, u64)> = Vec::new();
        for (mark, timed) in &ripe {
            let enqueued = self.at;
            let run = Run {
                first: mark.seq,
                count: 1,
                home: timed.home,
                enqueued,
                budgets: timed.budgets,
            };
            if self.lane.waiting.next_stored(timed.class).is_none() {
                self.delta_line(timed.class).promoted.push_back(run);
            }
            match counts.iter_mut().find(|(class, _)| *class == timed.class) {
                Some((_, count)) => *count += 1,
                None => counts.push((timed.class, 1)),
            }
        }
        if !ripe.is_empty() {
            self.delta.promoted = Some(now);
        }
        counts
    }

    /// What is timed up to `now`, in order: known before, read now, or retried or submitted by this draft.
    fn ripe(&self, now: DueMark) -> Vec<(DueMark, Timed)> {
        let known = self
            .lane
            .timers
            .range(..=now)
            .map(|(mark, timed)| (*mark, *timed));
        let read = self.delta.timed.iter().map(TimedEntry::split);
        let retried = self
            .delta
            .retried
            .iter()
            .filter_map(|retried| self.timer_of(retried));
        let scheduled = self.delta.scheduled.iter().map(TimedEntry::split);
        let scheduled = scheduled.filter(|(mark, _)| *mark <= self.due_read());
        let new = read
            .chain(retried)
            .chain(scheduled)
            .filter(|(mark, _)| *mark <= now);
        let over = |mark: &DueMark| self.delta.cancelled.contains(&Cancelled::Timed(*mark));
        let none_over = self.cancelled.is_empty();
        let ripe = known
            .chain(new)
            .filter(|(mark, _)| none_over || !over(mark));
        let mut ripe: Vec<_> = ripe.collect();
        ripe.sort_by_key(|(mark, _)| *mark);
        ripe
    }

    /// The lines in which something may wait, known to the lane or to this draft alone. A line may have
    /// been emptied by this draft's claims.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        let new = |class: &&Class| self.lane.waiting.head(**class).is_none();
        self.lane
            .waiting
            .classes()
            .chain(self.lines.keys().filter(new).copied())
    }

    /// The run at the head of a line, less what this draft has claimed.
    #[must_use]
    pub fn peek(&self, class: Class) -> Option<Run> {
        let line = self.lines.get(&class);
        if let Some(run) = line.and_then(|line| line.front.front()) {
            return Some(*run);
        }
        let own = match line.map(|line| &line.own) {
            Some(Own::Left(left)) => left.front().copied(),
            Some(Own::Claimed { runs, of_run }) => self.of_lane(class, *runs, *of_run),
            None => self.of_lane(class, 0, 0),
        };
        if own.is_some() {
            return own;
        }
        let line = line?;
        line.promoted.front().or(line.back.front()).copied()
    }

    /// Whether nothing can be claimed of a line before what waits in its table is read.
    #[must_use]
    pub fn is_to_be_read(&self, class: Class) -> bool {
        self.ends_in_table(class) && self.peek(class).is_none()
    }

    /// Takes in what was read of the first executions of a line that wait in their table. After everything that
    /// is cancelled. What was read of another span than the lane's first is out of date, and left alone.
    ///
    /// # Errors
    /// [`Misread`]: it isn't what the chain says is there.
    pub fn recall(&mut self, class: Class, page: &StoredPage) -> Result<(), Misread> {
        let next = self.lane.waiting.next_stored(class);
        let Some(stored) = next.filter(|stored| stored.span.from == page.from) else {
            return Ok(());
        };
        let mut left = stored.clone();
        for cancelled in &self.delta.cancelled {
            if let Cancelled::Stored { seq, class: of } = cancelled
                && *of == class
            {
                left.cancel(*seq);
            }
        }
        if left.count == 0 {
            return Ok(());
        }
        let (runs, upto) = (left.runs_of(page), page.upto);
        let recalled = Recalled { class, runs, upto };
        left.take(&recalled)?;
        self.delta.recalled.push(recalled);
        Ok(())
    }

    /// The run of a line that comes after `runs` of the lane's, less its first `of_run`.
    fn of_lane(&self, class: Class, runs: usize, of_run: u32) -> Option<Run> {
        let run = self.lane.waiting.head(class)?.get(runs)?;
        Some(rest(*run, of_run))
    }

    /// Claims up to `count` executions of the run at the head of a line for a worker; gives what is
    /// claimed, with the row's number as its fence.
    pub fn claim(&mut self, class: Class, count: u32, worker: &Arc<str>) -> Option<Run> {
        let head = self.peek(class)?;
        let taken = Run {
            count: head.count.min(count),
            ..head
        };
        if taken.count == 0 {
            return None;
        }
        let lane_runs = self.lane.waiting.head(class).map_or(0, VecDeque::len);
        self.delta_line(class).take(&taken, head.count, lane_runs);
        let (first, count) = (taken.first, taken.count);
        self.delta.claimed.push(Claimed {
            class,
            worker: Arc::clone(worker),
            first,
            count,
        });
        Some(taken)
    }

    /// Has an execution run again that is over by its rows. It is there for the next row: this one's number is its
    /// outcome's.
    ///
    /// # Errors
    /// [`NotOver`]: it is open, or was run again in this draft already.
    pub fn reopen(&mut self, reopened: Reopened) -> Result<(), NotOver> {
        let Reopened {
            seq, class, saved, ..
        } = reopened;
        let runs = self.lane.running.contains_key(&seq);
        let waits = self.lane.waiting.find(class, seq).is_some();
        if runs || waits || self.delta.reopened.iter().any(|other| other.seq == seq) {
            return Err(NotOver);
        }
        self.saved.extend(saved.map(|mark| (seq, mark)));
        self.delta.reopened.push(reopened);
        Ok(())
    }

    /// The planned row, for the batch of this id.
    #[must_use]
    pub fn seal(self, batch: u128) -> Row {
        Row {
            lane: self.lane.id,
            link: self.lane.link.next(batch),
            previous: self.lane.link,
            kind: RowKind::Work,
            epoch: self.lane.epoch,
            at: self.at,
            next_seq: self.next_seq,
            totals: self.lane.totals.after(&self.delta),
            delta: self.delta,
        }
    }

    /// How far the `due` table is read after this row.
    fn due_read(&self) -> DueMark {
        self.delta.due_read.unwrap_or(self.lane.due_read)
    }

    /// The timer that a retry of this draft becomes, unless it goes to the table.
    fn timer_of(&self, retried: &Retried) -> Option<(DueMark, Timed)> {
        let mark = DueMark {
            due: retried.due,
            seq: retried.seq,
        };
        let running = self.lane.running.get(&retried.seq)?;
        let timed = Timed {
            class: Class {
                suspect: retried.suspect,
                ..running.class
            },
            home: running.home,
            budgets: retried.budgets,
            wait: Wait::Retrying,
        };
        (mark <= self.due_read()).then_some((mark, timed))
    }

    /// Whether something of a line waits in its table, before or after this draft.
    fn ends_in_table(&self, class: Class) -> bool {
        let stored = self.lines.get(&class).is_some_and(|line| line.stored);
        stored || self.lane.waiting.next_stored(class).is_some()
    }

    /// A run comes to the end of a line. Behind what is to be read first, this draft has no use for it.
    fn push_back(&mut self, class: Class, run: Run) {
        if !self.ends_in_table(class) {
            self.delta_line(class).back.push_back(run);
        }
    }

    fn delta_line(&mut self, class: Class) -> &mut Line {
        self.lines.entry(class).or_default()
    }
}

impl Line {
    /// Takes `taken` off the head, whose run has `head_count` left.
    fn take(&mut self, taken: &Run, head_count: u32, lane_runs: usize) {
        let whole = taken.count == head_count;
        let of = if !self.front.is_empty() {
            &mut self.front
        } else {
            match &mut self.own {
                Own::Claimed { runs, of_run } if *runs < lane_runs => {
                    *runs += usize::from(whole);
                    *of_run = if whole { 0 } else { *of_run + taken.count };
                    return;
                }
                Own::Left(left) if !left.is_empty() => left,
                _ if !self.promoted.is_empty() => &mut self.promoted,
                _ => &mut self.back,
            }
        };
        if whole {
            of.pop_front();
        } else if let Some(run) = of.front_mut() {
            *run = rest(*run, taken.count);
        }
    }
}

/// A run without its first `taken` executions.
fn rest(run: Run, taken: u32) -> Run {
    Run {
        first: run.first + u64::from(taken),
        count: run.count - taken,
        ..run
    }
}
