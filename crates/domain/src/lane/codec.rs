//! A row's bytes: its lists in order, behind a version, and a dictionary of the classes and workers that
//! the row names.

use std::sync::Arc;

use super::bytes::{Dictionary, Reader, Writer, pick};
use super::{
    Accepted, Cancelled, Claimed, Class, Closed, DatabaseIdentity, Delta, InboxMark, Recalled,
    Received, Reopened, Requeued, Retried, RowKind, Saved,
};
use crate::{Budgets, Hour, Micros};

/// The version that is written. A rolling upgrade writes the lowest one that a live replica reads.
pub(super) const VERSION: u64 = 6;

/// Bytes that are no delta of a version that this program reads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes of a chain row or a snapshot can't be read: {0}")]
pub struct CodecError(String);

impl CodecError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl RowKind {
    /// The number that is stored.
    #[must_use]
    pub fn number(self) -> i16 {
        match self {
            Self::Genesis => 0,
            Self::Work => 1,
            Self::Jump { .. } => 2,
            Self::TakeOver => 3,
        }
    }

    /// The kind of a stored number; `jump_to` is the one that a jump goes on at.
    ///
    /// # Errors
    /// There is no such kind, or it is a jump to nowhere.
    pub fn from_number(number: i16, jump_to: Option<u64>) -> Result<Self, CodecError> {
        match (number, jump_to) {
            (0, _) => Ok(Self::Genesis),
            (1, _) => Ok(Self::Work),
            (2, Some(to)) => Ok(Self::Jump { to }),
            (3, _) => Ok(Self::TakeOver),
            _ => Err(CodecError(format!(
                "kind {number}, going on at {jump_to:?}, is unknown"
            ))),
        }
    }
}

impl Delta {
    /// The bytes that the chain stores.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let classes = Dictionary::of(self.classes());
        let workers = Dictionary::of(self.claimed.iter().map(|claimed| &*claimed.worker));
        let mut out = Writer::default();
        out.unsigned(VERSION);
        out.list(&classes.0, |out, class| out.class(class));
        out.list(&workers.0, |out, worker| out.text(worker));
        out.list(&self.timed, |out, entry| out.timed(entry, &classes));
        out.optional_mark(self.due_read);
        out.list(&self.cancelled, |out, cancelled| {
            out.cancelled(cancelled, &classes)
        });
        out.list(&self.saved, |out, saved| out.saved(saved.seq, saved.mark));
        out.list(&self.closed, |out, closed| {
            out.step(closed.seq);
            out.unsigned(closed.state as u64);
        });
        out.list(&self.retried, |out, retried| {
            out.step(retried.seq);
            out.signed(retried.due.0);
            out.used_up(retried.budgets, retried.suspect);
        });
        out.list(&self.requeued, |out, requeued| {
            out.step(requeued.seq);
            out.used_up(requeued.budgets, requeued.suspect);
        });
        out.list(&self.scheduled, |out, entry| out.timed(entry, &classes));
        out.optional_mark(self.promoted);
        out.list(&self.accepted, |out, accepted| {
            out.unsigned(classes.place(&accepted.class));
            out.step(accepted.first);
            out.unsigned(u64::from(accepted.count));
            out.unsigned(u64::from(accepted.stored));
        });
        out.list(&self.received, |out, received| {
            out.unsigned(classes.place(&received.class));
            out.step(received.seq);
            out.signed(i64::from(received.home.0));
        });
        out.optional(self.inbox_read.as_ref(), Writer::inbox_mark);
        out.list(&self.claimed, |out, claimed| {
            out.unsigned(classes.place(&claimed.class));
            out.unsigned(workers.place(&&*claimed.worker));
            out.step(claimed.first);
            out.unsigned(u64::from(claimed.count));
        });
        out.list(&self.recalled, |out, recalled| {
            out.unsigned(classes.place(&recalled.class));
            out.list(&recalled.runs, Writer::run);
            out.unsigned(recalled.upto);
        });
        out.list(&self.reopened, |out, reopened| {
            out.reopened(reopened, &classes)
        });
        out.optional(self.kept_until, |out, hour| out.signed(i64::from(hour.0)));
        out.optional_range(self.closing);
        out.optional_range(self.let_go);
        out.optional(self.database, |out, database| out.database(database));
        out.bytes
    }

    /// The delta that these bytes are.
    ///
    /// # Errors
    /// They are of another version, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader::new(bytes);
        let version = input.unsigned()?;
        if !(1..=VERSION).contains(&version) {
            return Err(CodecError(format!(
                "version {version} is not 1 to {VERSION}"
            )));
        }
        input.version = version;
        let classes = input.list(Reader::class)?;
        let workers = input.list(Reader::text)?;
        let delta = Self {
            timed: input.list(|input| input.timed(&classes))?,
            due_read: input.optional_mark()?,
            cancelled: input.since(2, |input| input.list(|input| input.cancelled(&classes)))?,
            saved: input.since(6, |input| input.list(Reader::saved))?,
            closed: input.list(Reader::closed)?,
            retried: input.list(Reader::retried)?,
            requeued: input.list(Reader::requeued)?,
            scheduled: input.since(2, |input| input.list(|input| input.timed(&classes)))?,
            promoted: input.optional_mark()?,
            accepted: input.list(|input| input.accepted(&classes))?,
            received: input.since(2, |input| input.list(|input| input.received(&classes)))?,
            inbox_read: input.since(2, |input| input.optional(Reader::inbox_mark))?,
            claimed: input.list(|input| input.claimed(&classes, &workers))?,
            recalled: input.since(3, |input| input.list(|input| input.recalled(&classes)))?,
            reopened: input.since(4, |input| input.list(|input| input.reopened(&classes)))?,
            kept_until: input
                .since(2, |input| input.optional(|input| Ok(Hour(input.number()?))))?,
            closing: input.since(2, Reader::optional_range)?,
            let_go: input.since(2, Reader::optional_range)?,
            database: input.since(2, |input| input.optional(Reader::database))?,
        };
        input.end()?;
        Ok(delta)
    }

    fn classes(&self) -> impl Iterator<Item = Class> {
        let timed = self
            .timed
            .iter()
            .chain(&self.scheduled)
            .map(|entry| entry.class);
        let cancelled = self
            .cancelled
            .iter()
            .filter_map(|cancelled| match cancelled {
                Cancelled::Waiting { class, .. } | Cancelled::Stored { class, .. } => Some(*class),
                Cancelled::Tabled(entry) => Some(entry.class),
                Cancelled::Timed(_) | Cancelled::Running(_) => None,
            });
        let accepted = self.accepted.iter().map(|accepted| accepted.class);
        let received = self.received.iter().map(|received| received.class);
        let claimed = self.claimed.iter().map(|claimed| claimed.class);
        let recalled = self.recalled.iter().map(|recalled| recalled.class);
        let reopened = self.reopened.iter().map(|reopened| reopened.class);
        timed
            .chain(cancelled)
            .chain(accepted)
            .chain(received)
            .chain(claimed)
            .chain(recalled)
            .chain(reopened)
    }
}

impl Writer {
    fn cancelled(&mut self, cancelled: &Cancelled, classes: &Dictionary<Class>) {
        match cancelled {
            Cancelled::Waiting { seq, class } => {
                self.unsigned(0);
                self.step(*seq);
                self.unsigned(classes.place(class));
            }
            Cancelled::Timed(mark) => {
                self.unsigned(1);
                self.mark(*mark);
            }
            Cancelled::Tabled(entry) => {
                self.unsigned(2);
                self.timed(entry, classes);
            }
            Cancelled::Running(seq) => {
                self.unsigned(3);
                self.step(*seq);
            }
            Cancelled::Stored { seq, class } => {
                self.unsigned(4);
                self.step(*seq);
                self.unsigned(classes.place(class));
            }
        }
    }

    fn reopened(&mut self, reopened: &Reopened, classes: &Dictionary<Class>) {
        self.unsigned(classes.place(&reopened.class));
        self.step(reopened.seq);
        self.signed(i64::from(reopened.home.0));
        self.optional(reopened.saved, Self::checkpoint_mark);
    }

    pub(super) fn inbox_mark(&mut self, mark: &InboxMark) {
        self.text(&mark.done);
        self.optional(mark.page.as_ref(), |out, (snapshot, last)| {
            out.text(snapshot);
            out.signed(*last);
        });
    }

    pub(super) fn database(&mut self, database: DatabaseIdentity) {
        self.signed(database.system);
        self.signed(i64::from(database.timeline));
    }
}

impl Reader<'_> {
    /// What rows have from a version on; those before it, nothing.
    pub(super) fn since<T: Default>(
        &mut self,
        version: u64,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<T, CodecError> {
        match self.version < version {
            true => Ok(T::default()),
            false => read(self),
        }
    }

    /// Budgets, and whether that makes a suspect.
    fn used_up(&mut self) -> Result<(Budgets, bool), CodecError> {
        let budgets = self.budgets()?;
        Ok((budgets, self.since(5, |input| Ok(input.unsigned()? != 0))?))
    }

    fn cancelled(&mut self, classes: &[Class]) -> Result<Cancelled, CodecError> {
        Ok(match self.unsigned()? {
            0 => {
                let (seq, place) = (self.step()?, self.unsigned()?);
                let class = *pick(classes, place)?;
                Cancelled::Waiting { seq, class }
            }
            1 => Cancelled::Timed(self.mark()?),
            2 => Cancelled::Tabled(self.timed(classes)?),
            3 => Cancelled::Running(self.step()?),
            4 => {
                let (seq, place) = (self.step()?, self.unsigned()?);
                let class = *pick(classes, place)?;
                Cancelled::Stored { seq, class }
            }
            kind => return Err(CodecError(format!("cancellation {kind} is unknown"))),
        })
    }

    fn closed(&mut self) -> Result<Closed, CodecError> {
        let (seq, state) = (self.step()?, self.final_state()?);
        Ok(Closed { seq, state })
    }

    fn retried(&mut self) -> Result<Retried, CodecError> {
        let (seq, due) = (self.step()?, Micros(self.signed()?));
        let (budgets, suspect) = self.used_up()?;
        Ok(Retried {
            seq,
            due,
            budgets,
            suspect,
        })
    }

    fn requeued(&mut self) -> Result<Requeued, CodecError> {
        let seq = self.step()?;
        let (budgets, suspect) = self.used_up()?;
        Ok(Requeued {
            seq,
            budgets,
            suspect,
        })
    }

    fn accepted(&mut self, classes: &[Class]) -> Result<Accepted, CodecError> {
        let class = *pick(classes, self.unsigned()?)?;
        let (first, count) = (self.step()?, self.small()?);
        let stored = self.since(3, |input| Ok(input.unsigned()? != 0))?;
        Ok(Accepted {
            class,
            first,
            count,
            stored,
        })
    }

    fn received(&mut self, classes: &[Class]) -> Result<Received, CodecError> {
        let class = *pick(classes, self.unsigned()?)?;
        let (seq, home) = (self.step()?, Hour(self.number()?));
        Ok(Received { seq, class, home })
    }

    fn reopened(&mut self, classes: &[Class]) -> Result<Reopened, CodecError> {
        let class = *pick(classes, self.unsigned()?)?;
        let (seq, home) = (self.step()?, Hour(self.number()?));
        let saved = self.since(6, |input| input.optional(Self::checkpoint_mark))?;
        Ok(Reopened {
            seq,
            class,
            home,
            saved,
        })
    }

    fn claimed(&mut self, classes: &[Class], workers: &[Arc<str>]) -> Result<Claimed, CodecError> {
        let class = *pick(classes, self.unsigned()?)?;
        let worker = Arc::clone(pick(workers, self.unsigned()?)?);
        let (first, count) = (self.step()?, self.small()?);
        Ok(Claimed {
            class,
            worker,
            first,
            count,
        })
    }

    fn saved(&mut self) -> Result<Saved, CodecError> {
        let (seq, mark) = (self.step()?, self.checkpoint_mark()?);
        Ok(Saved { seq, mark })
    }

    fn recalled(&mut self, classes: &[Class]) -> Result<Recalled, CodecError> {
        Ok(Recalled {
            class: *pick(classes, self.unsigned()?)?,
            runs: self.list(Self::run)?,
            upto: self.unsigned()?,
        })
    }

    pub(super) fn inbox_mark(&mut self) -> Result<InboxMark, CodecError> {
        Ok(InboxMark {
            done: self.text()?.to_string(),
            page: self.optional(|input| Ok((input.text()?.to_string(), input.signed()?)))?,
        })
    }

    pub(super) fn database(&mut self) -> Result<DatabaseIdentity, CodecError> {
        let (system, timeline) = (self.signed()?, self.number()?);
        Ok(DatabaseIdentity { system, timeline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::{DueMark, Wait};

    #[test]
    fn rows_of_version_1_are_read() {
        let mut out = Writer::default();
        out.unsigned(1);
        out.unsigned(1);
        for number in [2, 2, 3, 2] {
            out.unsigned(number);
        }
        out.unsigned(0);
        // One due entry: class, number, time, home, two budgets.
        out.unsigned(1);
        out.unsigned(0);
        out.step(9);
        out.signed(77);
        out.signed(5);
        out.unsigned(1);
        out.unsigned(0);
        out.optional_mark(Some(DueMark {
            due: Micros(80),
            seq: 1,
        }));
        for _ in 0..6 {
            out.unsigned(0);
        }
        let delta = Delta::decode(&out.bytes).unwrap();
        let entry = delta.timed[0];
        assert_eq!(
            (entry.mark.seq, entry.mark.due, entry.wait),
            (9, Micros(77), Wait::Retrying)
        );
        assert_eq!(delta.due_read.map(|mark| mark.due), Some(Micros(80)));
        assert!(delta.cancelled.is_empty() && delta.database.is_none());
    }

    #[test]
    fn rows_of_version_2_are_read() {
        let class = Class {
            tenant: 1,
            queue: 2,
            priority: crate::Priority::Normal,
            job_type: 3,
            suspect: false,
        };
        let (first, count, stored) = (9, 4, false);
        let delta = Delta {
            accepted: vec![Accepted {
                class,
                first,
                count,
                stored,
            }],
            ..Delta::default()
        };
        let mut bytes = delta.encode();
        // Without what is recalled and reopened, before the last four fields, without what says that it is
        // stored, before the two lists after it and the mark between them, and without what is saved, before
        // the five fields that come before what is accepted.
        bytes.drain(bytes.len() - 6..bytes.len() - 4);
        bytes.remove(bytes.len() - 8);
        bytes.remove(bytes.len() - 17);
        bytes[0] = 2;
        assert_eq!(Delta::decode(&bytes).unwrap(), delta);
    }
}
