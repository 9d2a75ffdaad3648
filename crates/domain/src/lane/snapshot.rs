//! A lane's snapshot: the whole of its memory as bytes, so that recovery need not begin at its first row.

use std::collections::VecDeque;
use std::sync::Arc;

use super::bytes::{Dictionary, Reader, Writer, pick};
use super::codec::VERSION;
use super::waiting::Beyond;
use super::{
    Class, CodecError, Lane, LineTotals, Link, Run, Running, Span, Stored, Totals, WaitingSet,
};
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
            let runs = self.waiting.head(*class);
            let runs: Vec<&Run> = runs.into_iter().flatten().collect();
            out.list(&runs, |out, run| out.run(run));
            let beyond: Vec<_> = self.waiting.beyond(*class).collect();
            out.list(&beyond, |out, beyond| out.beyond(beyond));
        }
        let mut running: Vec<_> = self.running.iter().collect();
        running.sort_unstable_by_key(|(seq, _)| **seq);
        out.list(&running, |out, (seq, running)| {
            out.step(**seq);
            out.unsigned(classes.place(&running.class));
            out.unsigned(workers.place(&&*running.worker));
            out.running(running);
        });
        let mut saved: Vec<_> = self.saved.iter().collect();
        saved.sort_unstable();
        out.list(&saved, |out, (seq, mark)| out.saved(**seq, **mark));
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
        if !(2..=VERSION).contains(&version) {
            return Err(CodecError::new(format!(
                "version {version} is not 2 to {VERSION}"
            )));
        }
        input.version = version;
        let mut lane = input.place(id)?;
        let classes = input.list(Reader::class)?;
        let workers = input.list(Reader::text)?;
        lane.lines = input.list(Reader::line)?.into_iter().collect();
        for class in &classes {
            let runs: VecDeque<Run> = input.list(Reader::run)?.into();
            let beyond = input.since(3, |input| input.list(Reader::beyond))?.into();
            lane.waiting.restore(*class, runs, beyond);
        }
        let running = input.list(|input| input.running(&classes, &workers))?;
        lane.running = running.into_iter().collect();
        let saved = input.since(6, |input| {
            input.list(|input| Ok((input.step()?, input.checkpoint_mark()?)))
        })?;
        lane.saved = saved.into_iter().collect();
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
        let waiting = self.waiting.classes();
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

    fn beyond(&mut self, Beyond { stored, runs }: &Beyond) {
        let span = stored.span;
        self.step(span.from);
        self.step(span.to);
        self.signed(span.since.0);
        self.signed(span.until.0);
        self.unsigned(stored.count);
        let cancelled: Vec<u64> = stored.cancelled.iter().copied().collect();
        self.list(&cancelled, |out, seq| out.step(*seq));
        let runs: Vec<&Run> = runs.iter().collect();
        self.list(&runs, |out, run| out.run(run));
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
            saved: Default::default(),
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

    fn beyond(&mut self) -> Result<Beyond, CodecError> {
        let span = Span {
            from: self.step()?,
            to: self.step()?,
            since: Micros(self.signed()?),
            until: Micros(self.signed()?),
        };
        let stored = Stored {
            span,
            count: self.unsigned()?,
            cancelled: self.list(Reader::step)?.into_iter().collect(),
        };
        let runs = self.list(Reader::run)?.into();
        Ok(Beyond { stored, runs })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::Row;

    #[test]
    fn snapshots_of_version_2_are_read() {
        let at = Micros(1_790_000_000_000_000);
        let class = Class {
            tenant: 1,
            queue: 2,
            priority: Priority::Normal,
            job_type: 3,
            suspect: false,
        };
        let mut lane = Lane::begin(&Row::genesis(LaneId(3), at)).unwrap();
        let mut draft = lane.draft(at);
        draft.accept(class, 4);
        let row = draft.seal(1);
        lane.apply(&row).unwrap();
        let mut bytes = lane.to_snapshot();
        // What a line has beyond its head comes before this.
        let mut rest = Writer::default();
        rest.totals(&[0, 0, 0]);
        rest.mark(lane.due_read);
        rest.totals(&[0, 0, 0]);
        rest.signed(i64::from(lane.kept_until.0));
        rest.totals(&[0, 0, 0, 0]);
        assert_eq!(bytes.remove(bytes.len() - rest.bytes.len() - 1), 0);
        // Nor was anything saved: the second of three empty lists.
        assert_eq!(bytes.remove(bytes.len() - rest.bytes.len() + 1), 0);
        bytes[0] = 2;
        assert_eq!(Lane::from_snapshot(LaneId(3), &bytes).unwrap(), lane);
    }
}
