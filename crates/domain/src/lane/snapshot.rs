//! A lane's snapshot: the whole of its memory as bytes, so that recovery need not begin at its first row.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bytes::{Dictionary, Reader, Writer, pick};
use super::codec::VERSION;
use super::{Class, CodecError, Lane, LineTotals, Link, Run, Running, Totals, WaitingSet};
use crate::{Hour, HourSet, LaneId, Micros, Priority};

impl Lane {
    /// The bytes from which [`Lane::from_snapshot`] makes it again.
    #[must_use]
    pub fn to_snapshot(&self) -> Vec<u8> {
        let classes = Dictionary::of(self.classes());
        let workers = Dictionary::of(self.running.values().map(|running| &*running.worker));
        let mut out = Writer::default();
        out.unsigned(VERSION);
        out.place(self);
        out.list(&classes.0, |out, class| out.class(class));
        out.list(&workers.0, |out, worker| out.text(worker));
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_unstable_by_key(|(line, _)| **line);
        out.list(&lines, |out, (line, totals)| out.line(**line, totals));
        for class in &classes.0 {
            let runs = self.waiting.line(*class);
            let runs: Vec<&Run> = runs.into_iter().flatten().collect();
            out.list(&runs, |out, run| out.run(run));
        }
        let mut running: Vec<_> = self.running.iter().collect();
        running.sort_unstable_by_key(|(seq, _)| **seq);
        out.list(&running, |out, (seq, running)| {
            out.step(**seq);
            out.unsigned(classes.place(&running.class));
            out.unsigned(workers.place(&&*running.worker));
            out.running(running);
        });
        let timers: Vec<_> = self.timers.iter().collect();
        out.list(&timers, |out, (mark, timed)| {
            out.timed(&timed.entry(**mark), &classes);
        });
        out.mark(self.due_read);
        let skipped: Vec<_> = self.skipped.iter().copied().collect();
        out.list(&skipped, |out, mark| out.mark(*mark));
        out.inbox_mark(&self.inbox_read);
        out.signed(i64::from(self.kept_until.0));
        out.hours(&self.closing);
        out.hours(&self.let_go);
        out.database(self.database);
        out.bytes
    }

    /// The lane that these bytes are.
    ///
    /// # Errors
    /// They are of another version, or damaged.
    pub fn from_snapshot(id: LaneId, bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(bytes);
        let version = input.unsigned()?;
        if version != VERSION {
            return Err(CodecError::new(format!(
                "version {version} is not {VERSION}"
            )));
        }
        let mut lane = input.place(id)?;
        let classes = input.list(Reader::class)?;
        let workers = input.list(Reader::text)?;
        lane.lines = input.list(Reader::line)?.into_iter().collect();
        for class in &classes {
            let runs: VecDeque<Run> = input.list(Reader::run)?.into();
            lane.waiting.restore(*class, runs);
        }
        let running = input.list(|input| input.running(&classes, &workers))?;
        lane.running = running.into_iter().collect();
        let timers = input.list(|input| input.timed(&classes))?;
        lane.timers = timers.iter().map(super::TimedEntry::split).collect();
        lane.due_read = input.mark()?;
        lane.skipped = input.list(Reader::mark)?.into_iter().collect();
        lane.inbox_read = input.inbox_mark()?;
        lane.kept_until = Hour(input.number()?);
        lane.closing = input.hours()?;
        lane.let_go = input.hours()?;
        lane.database = input.database()?;
        input.end()?;
        Ok(lane)
    }

    fn classes(&self) -> impl Iterator<Item = Class> {
        let waiting = self.waiting.lines().map(|(class, _)| class);
        let running = self.running.values().map(|running| running.class);
        let timers = self.timers.values().map(|timed| timed.class);
        waiting.chain(running).chain(timers)
    }
}

impl Writer {
    fn place(&mut self, lane: &Lane) {
        self.unsigned(lane.link.n);
        self.unsigned((lane.link.batch >> 64) as u64);
        self.unsigned(lane.link.batch as u64);
        self.unsigned(lane.next_n);
        self.signed(lane.epoch);
        self.unsigned(lane.next_seq);
        let Totals {
            submitted,
            claimed,
            finished,
        } = lane.totals;
        self.totals(&[submitted, claimed, finished]);
    }

    fn totals(&mut self, totals: &[u64]) {
        totals.iter().for_each(|total| self.unsigned(*total));
    }

    fn line(&mut self, (queue, priority): (i32, Priority), totals: &LineTotals) {
        self.signed(i64::from(queue));
        self.unsigned(priority as u64);
        let LineTotals {
            enqueued,
            dequeued,
            acknowledged,
            rejected,
            removed,
            dead_lettered,
            scheduled,
            retrying,
        } = *totals;
        self.totals(&[enqueued, dequeued]);
        self.totals(&[acknowledged, rejected, removed, dead_lettered]);
        self.totals(&[scheduled, retrying]);
    }

    fn run(&mut self, run: &Run) {
        self.step(run.first);
        self.unsigned(u64::from(run.count));
        self.signed(i64::from(run.home.0));
        self.signed(run.enqueued.0);
        self.budgets(run.budgets);
    }

    fn running(&mut self, running: &Running) {
        self.unsigned(running.fence);
        self.signed(i64::from(running.home.0));
        self.signed(running.enqueued.0);
        self.signed(running.claimed.0);
        self.budgets(running.budgets);
        self.unsigned(u64::from(running.cancelled));
    }

    fn hours(&mut self, set: &HourSet) {
        let ranges: Vec<_> = set.ranges().collect();
        self.list(&ranges, |out, range| out.range(*range));
    }
}

impl Reader<'_> {
    /// A lane that has a place in its chain and nothing in it yet.
    fn place(&mut self, id: LaneId) -> Result<Lane, CodecError> {
        let n = self.unsigned()?;
        let batch = u128::from(self.unsigned()?) << 64 | u128::from(self.unsigned()?);
        Ok(Lane {
            id,
            link: Link { n, batch },
            next_n: self.unsigned()?,
            epoch: self.signed()?,
            next_seq: self.unsigned()?,
            totals: Totals {
                submitted: self.unsigned()?,
                claimed: self.unsigned()?,
                finished: self.unsigned()?,
            },
            lines: Default::default(),
            waiting: WaitingSet::default(),
            running: Default::default(),
            timers: Default::default(),
            due_read: Default::default(),
            skipped: Default::default(),
            inbox_read: Default::default(),
            kept_until: Hour::default(),
            closing: HourSet::default(),
            let_go: HourSet::default(),
            database: Default::default(),
        })
    }

    fn line(&mut self) -> Result<((i32, Priority), LineTotals), CodecError> {
        let (queue, priority) = (self.number()?, self.priority()?);
        let totals = LineTotals {
            enqueued: self.unsigned()?,
            dequeued: self.unsigned()?,
            acknowledged: self.unsigned()?,
            rejected: self.unsigned()?,
            removed: self.unsigned()?,
            dead_lettered: self.unsigned()?,
            scheduled: self.unsigned()?,
            retrying: self.unsigned()?,
        };
        Ok(((queue, priority), totals))
    }

    fn run(&mut self) -> Result<Run, CodecError> {
        Ok(Run {
            first: self.step()?,
            count: self.small()?,
            home: Hour(self.number()?),
            enqueued: Micros(self.signed()?),
            budgets: self.budgets()?,
        })
    }

    fn running(
        &mut self,
        classes: &[Class],
        workers: &[Arc<str>],
    ) -> Result<(u64, Running), CodecError> {
        let seq = self.step()?;
        let class = *pick(classes, self.unsigned()?)?;
        let worker = Arc::clone(pick(workers, self.unsigned()?)?);
        let running = Running {
            class,
            worker,
            fence: self.unsigned()?,
            home: Hour(self.number()?),
            enqueued: Micros(self.signed()?),
            claimed: Micros(self.signed()?),
            budgets: self.budgets()?,
            cancelled: self.unsigned()? != 0,
        };
        Ok((seq, running))
    }

    fn hours(&mut self) -> Result<HourSet, CodecError> {
        let mut set = HourSet::default();
        for range in self.list(Reader::range)? {
            set.insert(range);
        }
        Ok(set)
    }
}
