//! A row's bytes: varints behind a version, with a dictionary of the classes and workers that the row
//! names. Numbers that follow each other are written as differences, so that a batch of hundreds
//! takes a few bytes an execution.

use std::sync::Arc;

use super::{
    Accepted, Claimed, Class, Closed, Delta, DueMark, Requeued, Retried, RowKind, TimedEntry,
};
use crate::{Budgets, FinalState, Hour, Micros, Priority};

/// The version that is written. A rolling upgrade writes the lowest one that a live replica reads.
const VERSION: u64 = 1;

/// Bytes that are no delta of a version that this program reads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a chain row's bytes can't be read: {0}")]
pub struct CodecError(String);

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
        out.list(&self.closed, |out, closed| {
            out.step(closed.seq);
            out.unsigned(closed.state as u64);
        });
        out.list(&self.retried, |out, retried| {
            out.step(retried.seq);
            out.signed(retried.due.0);
            out.budgets(retried.budgets);
        });
        out.list(&self.requeued, |out, requeued| {
            out.step(requeued.seq);
            out.budgets(requeued.budgets);
        });
        out.optional_mark(self.promoted);
        out.list(&self.accepted, |out, accepted| {
            out.unsigned(classes.place(&accepted.class));
            out.step(accepted.first);
            out.unsigned(u64::from(accepted.count));
        });
        out.list(&self.claimed, |out, claimed| {
            out.unsigned(classes.place(&claimed.class));
            out.unsigned(workers.place(&&*claimed.worker));
            out.step(claimed.first);
            out.unsigned(u64::from(claimed.count));
        });
        out.bytes
    }

    /// The delta that these bytes are.
    ///
    /// # Errors
    /// They are of another version, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut input = Reader { bytes, last: 0 };
        let version = input.unsigned()?;
        if version != VERSION {
            return Err(CodecError(format!("version {version} is not {VERSION}")));
        }
        let classes = input.list(Reader::class)?;
        let workers = input.list(Reader::text)?;
        let delta = Self {
            timed: input.list(|input| input.timed(&classes))?,
            due_read: input.optional_mark()?,
            closed: input.list(|input| {
                Ok(Closed {
                    seq: input.step()?,
                    state: input.final_state()?,
                })
            })?,
            retried: input.list(|input| {
                let (seq, due) = (input.step()?, Micros(input.signed()?));
                Ok(Retried {
                    seq,
                    due,
                    budgets: input.budgets()?,
                })
            })?,
            requeued: input.list(|input| {
                Ok(Requeued {
                    seq: input.step()?,
                    budgets: input.budgets()?,
                })
            })?,
            promoted: input.optional_mark()?,
            accepted: input.list(|input| {
                let class = *pick(&classes, input.unsigned()?)?;
                Ok(Accepted {
                    class,
                    first: input.step()?,
                    count: input.small()?,
                })
            })?,
            claimed: input.list(|input| {
                let class = *pick(&classes, input.unsigned()?)?;
                let worker: &Arc<str> = pick(&workers, input.unsigned()?)?;
                let worker = Arc::clone(worker);
                Ok(Claimed {
                    class,
                    worker,
                    first: input.step()?,
                    count: input.small()?,
                })
            })?,
        };
        match input.bytes {
            [] => Ok(delta),
            rest => Err(CodecError(format!("{} bytes are left over", rest.len()))),
        }
    }

    fn classes(&self) -> impl Iterator<Item = Class> {
        let timed = self.timed.iter().map(|entry| entry.class);
        let accepted = self.accepted.iter().map(|accepted| accepted.class);
        timed
            .chain(accepted)
            .chain(self.claimed.iter().map(|claimed| claimed.class))
    }
}

/// The distinct values of a row, sorted; each is written once and named by its place.
struct Dictionary<T>(Vec<T>);

impl<T: Ord> Dictionary<T> {
    fn of(values: impl Iterator<Item = T>) -> Self {
        let mut values: Vec<T> = values.collect();
        values.sort_unstable();
        values.dedup();
        Self(values)
    }

    fn place(&self, value: &T) -> u64 {
        self.0.binary_search(value).unwrap_or_default() as u64
    }
}

fn pick<T>(values: &[T], place: u64) -> Result<&T, CodecError> {
    let found = usize::try_from(place)
        .ok()
        .and_then(|place| values.get(place));
    found.ok_or_else(|| CodecError(format!("place {place} of a dictionary of {}", values.len())))
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    last: u64,
}

impl Writer {
    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Zigzag: small negative numbers are small too.
    fn signed(&mut self, value: i64) {
        self.unsigned(((value << 1) ^ (value >> 63)) as u64);
    }

    /// An execution's number, as its distance from the one before.
    fn step(&mut self, seq: u64) {
        self.signed(seq.wrapping_sub(self.last) as i64);
        self.last = seq;
    }

    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.unsigned(items.len() as u64);
        for item in items {
            write(self, item);
        }
    }

    fn text(&mut self, text: &str) {
        self.unsigned(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn class(&mut self, class: &Class) {
        self.signed(i64::from(class.tenant));
        self.signed(i64::from(class.queue));
        self.unsigned(class.priority as u64);
        self.signed(i64::from(class.job_type));
    }

    fn budgets(&mut self, budgets: Budgets) {
        self.unsigned(u64::from(budgets.attempts));
        self.unsigned(u64::from(budgets.lost));
    }

    fn optional_mark(&mut self, mark: Option<DueMark>) {
        self.unsigned(u64::from(mark.is_some()));
        if let Some(mark) = mark {
            self.signed(mark.due.0);
            self.unsigned(mark.seq);
        }
    }

    fn timed(&mut self, entry: &TimedEntry, classes: &Dictionary<Class>) {
        self.unsigned(classes.place(&entry.class));
        self.step(entry.mark.seq);
        self.signed(entry.mark.due.0);
        self.signed(i64::from(entry.home.0));
        self.budgets(entry.budgets);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    last: u64,
}

impl Reader<'_> {
    fn unsigned(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self
                .bytes
                .split_first()
                .ok_or_else(|| CodecError("they end too early".into()))?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError("a number is too long".into()))
    }

    fn signed(&mut self) -> Result<i64, CodecError> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, CodecError> {
        let value = self.signed()?;
        T::try_from(value).map_err(|_| CodecError(format!("{value} is out of range")))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, CodecError> {
        let value = self.unsigned()?;
        T::try_from(value).map_err(|_| CodecError(format!("{value} is out of range")))
    }

    fn step(&mut self) -> Result<u64, CodecError> {
        self.last = self.last.wrapping_add(self.signed()? as u64);
        Ok(self.last)
    }

    fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.unsigned()?;
        // Each item takes a byte at least: a damaged count can't ask for all the memory.
        if count > self.bytes.len() as u64 {
            return Err(CodecError(format!(
                "{count} items in {} bytes",
                self.bytes.len()
            )));
        }
        (0..count).map(|_| read(self)).collect()
    }

    fn text(&mut self) -> Result<Arc<str>, CodecError> {
        let length: usize = self.small()?;
        let (text, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or_else(|| CodecError("a text ends too early".into()))?;
        self.bytes = rest;
        let text =
            std::str::from_utf8(text).map_err(|_| CodecError("a text is no UTF-8".into()))?;
        Ok(Arc::from(text))
    }

    fn class(&mut self) -> Result<Class, CodecError> {
        let (tenant, queue) = (self.number()?, self.number()?);
        let priority = self.unsigned()?;
        let priority = i32::try_from(priority)
            .ok()
            .and_then(Priority::from_number)
            .ok_or_else(|| CodecError(format!("priority {priority} is unknown")))?;
        Ok(Class {
            tenant,
            queue,
            priority,
            job_type: self.number()?,
        })
    }

    fn budgets(&mut self) -> Result<Budgets, CodecError> {
        Ok(Budgets {
            attempts: self.small()?,
            lost: self.small()?,
        })
    }

    fn final_state(&mut self) -> Result<FinalState, CodecError> {
        let number = self.unsigned()?;
        FinalState::from_number(number)
            .ok_or_else(|| CodecError(format!("final state {number} is unknown")))
    }

    fn optional_mark(&mut self) -> Result<Option<DueMark>, CodecError> {
        if self.unsigned()? == 0 {
            return Ok(None);
        }
        Ok(Some(DueMark {
            due: Micros(self.signed()?),
            seq: self.unsigned()?,
        }))
    }

    fn timed(&mut self, classes: &[Class]) -> Result<TimedEntry, CodecError> {
        let class = *pick(classes, self.unsigned()?)?;
        let seq = self.step()?;
        let mark = DueMark {
            due: Micros(self.signed()?),
            seq,
        };
        Ok(TimedEntry {
            mark,
            class,
            home: Hour(self.number()?),
            budgets: self.budgets()?,
        })
    }
}
