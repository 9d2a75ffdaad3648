//! Bytes of chain rows and snapshots: varints, and a dictionary for what is named often. Numbers that
//! follow each other are written as differences, so that a batch of hundreds takes a few bytes an
//! execution.

use std::sync::Arc;

use super::{CheckpointMark, Class, CodecError, DueMark, Run, TimedEntry, Wait};
use crate::{Budgets, FinalState, Hour, HourRange, Micros, Priority};

/// What marks a line of suspects, beside its priority.
const SUSPECT: u64 = 8;

/// The distinct values of a row, sorted; each is written once and named by its place.
pub(super) struct Dictionary<T>(pub(super) Vec<T>);

impl<T: Ord> Dictionary<T> {
    pub(super) fn of(values: impl Iterator<Item = T>) -> Self {
        let mut values: Vec<T> = values.collect();
        values.sort_unstable();
        values.dedup();
        Self(values)
    }

    pub(super) fn place(&self, value: &T) -> u64 {
        self.0.binary_search(value).unwrap_or_default() as u64
    }
}

pub(super) fn pick<T>(values: &[T], place: u64) -> Result<&T, CodecError> {
    let found = usize::try_from(place)
        .ok()
        .and_then(|place| values.get(place));
    found.ok_or_else(|| {
        CodecError::new(format!("place {place} of a dictionary of {}", values.len()))
    })
}

#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    last: u64,
}

impl Writer {
    pub(super) fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Zigzag: small negative numbers are small too.
    pub(super) fn signed(&mut self, value: i64) {
        self.unsigned(((value << 1) ^ (value >> 63)) as u64);
    }

    /// An execution's number, as its distance from the one before.
    pub(super) fn step(&mut self, seq: u64) {
        self.signed(seq.wrapping_sub(self.last) as i64);
        self.last = seq;
    }

    pub(super) fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.unsigned(items.len() as u64);
        for item in items {
            write(self, item);
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.unsigned(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn class(&mut self, class: &Class) {
        self.signed(i64::from(class.tenant));
        self.signed(i64::from(class.queue));
        let mark = if class.suspect { SUSPECT } else { 0 };
        self.unsigned(class.priority as u64 | mark);
        self.signed(i64::from(class.job_type));
    }

    /// Budgets, and whether that makes a suspect.
    pub(super) fn used_up(&mut self, budgets: Budgets, suspect: bool) {
        self.budgets(budgets);
        self.unsigned(u64::from(suspect));
    }

    pub(super) fn budgets(&mut self, budgets: Budgets) {
        self.unsigned(u64::from(budgets.attempts));
        self.unsigned(u64::from(budgets.lost));
    }

    pub(super) fn optional<T>(&mut self, value: Option<T>, write: impl Fn(&mut Self, T)) {
        self.unsigned(u64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn mark(&mut self, mark: DueMark) {
        self.signed(mark.due.0);
        self.unsigned(mark.seq);
    }

    pub(super) fn optional_mark(&mut self, mark: Option<DueMark>) {
        self.optional(mark, Self::mark);
    }

    pub(super) fn range(&mut self, HourRange { from, to }: HourRange) {
        self.signed(i64::from(from.0));
        self.signed(i64::from(to.0));
    }

    pub(super) fn optional_range(&mut self, range: Option<HourRange>) {
        self.optional(range, Self::range);
    }

    pub(super) fn checkpoint_mark(&mut self, mark: CheckpointMark) {
        self.unsigned(mark.fence);
        self.unsigned(mark.number);
    }

    /// An execution's last checkpoint.
    pub(super) fn saved(&mut self, seq: u64, mark: CheckpointMark) {
        self.step(seq);
        self.checkpoint_mark(mark);
    }

    pub(super) fn timed(&mut self, entry: &TimedEntry, classes: &Dictionary<Class>) {
        self.unsigned(classes.place(&entry.class));
        self.step(entry.mark.seq);
        self.signed(entry.mark.due.0);
        self.signed(i64::from(entry.home.0));
        self.budgets(entry.budgets);
        self.unsigned(entry.wait as u64);
    }

    pub(super) fn run(&mut self, run: &Run) {
        self.step(run.first);
        self.unsigned(u64::from(run.count));
        self.signed(i64::from(run.home.0));
        self.signed(run.enqueued.0);
        self.budgets(run.budgets);
    }
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    last: u64,
    /// The version that the bytes are of.
    pub(super) version: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let (last, version) = (0, super::codec::VERSION);
        Self {
            bytes,
            last,
            version,
        }
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), CodecError> {
        match self.bytes {
            [] => Ok(()),
            rest => Err(CodecError::new(format!(
                "{} bytes are left over",
                rest.len()
            ))),
        }
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self
                .bytes
                .split_first()
                .ok_or_else(|| CodecError::new("they end too early"))?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::new("a number is too long"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, CodecError> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, CodecError> {
        let value = self.signed()?;
        T::try_from(value).map_err(|_| CodecError::new(format!("{value} is out of range")))
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, CodecError> {
        let value = self.unsigned()?;
        T::try_from(value).map_err(|_| CodecError::new(format!("{value} is out of range")))
    }

    pub(super) fn step(&mut self) -> Result<u64, CodecError> {
        self.last = self.last.wrapping_add(self.signed()? as u64);
        Ok(self.last)
    }

    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.unsigned()?;
        // Each item takes a byte at least: a damaged count can't ask for all the memory.
        if count > self.bytes.len() as u64 {
            return Err(CodecError::new(format!(
                "{count} items in {} bytes",
                self.bytes.len()
            )));
        }
        (0..count).map(|_| read(self)).collect()
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, CodecError> {
        let length: usize = self.small()?;
        let (text, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or_else(|| CodecError::new("a text ends too early"))?;
        self.bytes = rest;
        let text = std::str::from_utf8(text).map_err(|_| CodecError::new("a text is no UTF-8"))?;
        Ok(Arc::from(text))
    }

    /// Suspects are marked by a bit beside the priority.
    pub(super) fn class(&mut self) -> Result<Class, CodecError> {
        let (tenant, queue) = (self.number()?, self.number()?);
        let marked = self.unsigned()?;
        Ok(Class {
            tenant,
            queue,
            priority: priority(marked & !SUSPECT)?,
            job_type: self.number()?,
            suspect: marked & SUSPECT != 0,
        })
    }

    pub(super) fn priority(&mut self) -> Result<Priority, CodecError> {
        priority(self.unsigned()?)
    }

    pub(super) fn budgets(&mut self) -> Result<Budgets, CodecError> {
        Ok(Budgets {
            attempts: self.small()?,
            lost: self.small()?,
        })
    }

    pub(super) fn final_state(&mut self) -> Result<FinalState, CodecError> {
        let number = self.unsigned()?;
        FinalState::from_number(number)
            .ok_or_else(|| CodecError::new(format!("final state {number} is unknown")))
    }

    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        match self.unsigned()? {
            0 => Ok(None),
            _ => read(self).map(Some),
        }
    }

    pub(super) fn mark(&mut self) -> Result<DueMark, CodecError> {
        let (due, seq) = (Micros(self.signed()?), self.unsigned()?);
        Ok(DueMark { due, seq })
    }

    pub(super) fn optional_mark(&mut self) -> Result<Option<DueMark>, CodecError> {
        self.optional(Self::mark)
    }

    pub(super) fn range(&mut self) -> Result<HourRange, CodecError> {
        let (from, to) = (Hour(self.number()?), Hour(self.number()?));
        Ok(HourRange { from, to })
    }

    pub(super) fn optional_range(&mut self) -> Result<Option<HourRange>, CodecError> {
        self.optional(Self::range)
    }

    pub(super) fn checkpoint_mark(&mut self) -> Result<CheckpointMark, CodecError> {
        let (fence, number) = (self.unsigned()?, self.unsigned()?);
        Ok(CheckpointMark { fence, number })
    }

    pub(super) fn timed(&mut self, classes: &[Class]) -> Result<TimedEntry, CodecError> {
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
            wait: self.wait()?,
        })
    }

    pub(super) fn run(&mut self) -> Result<Run, CodecError> {
        Ok(Run {
            first: self.step()?,
            count: self.small()?,
            home: Hour(self.number()?),
            enqueued: Micros(self.signed()?),
            budgets: self.budgets()?,
        })
    }

    pub(super) fn wait(&mut self) -> Result<Wait, CodecError> {
        // In rows of version 1 only retries waited for a time.
        if self.version == 1 {
            return Ok(Wait::Retrying);
        }
        let number = self.unsigned()?;
        Wait::from_number(number)
            .ok_or_else(|| CodecError::new(format!("wait {number} is unknown")))
    }
}

fn priority(number: u64) -> Result<Priority, CodecError> {
    i32::try_from(number)
        .ok()
        .and_then(Priority::from_number)
        .ok_or_else(|| CodecError::new(format!("priority {number} is unknown")))
}
