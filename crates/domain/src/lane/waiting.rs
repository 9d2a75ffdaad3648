use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::{Class, Misread, Recalled, Stored};
use crate::{Budgets, Hour, Micros};

/// Consecutive executions of one line that are alike in all that memory knows of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first one's number.
    pub first: u64,
    /// How many; at least 1.
    pub count: u32,
    /// The hour of their home window.
    pub home: Hour,
    /// When they entered the line.
    pub enqueued: Micros,
    /// What they have used up.
    pub budgets: Budgets,
}

impl Run {
    /// Whether an execution is one of the run.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        (self.first..self.first + u64::from(self.count)).contains(&seq)
    }

    /// The last one's number.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// Their numbers.
    pub fn seqs(&self) -> std::ops::Range<u64> {
        self.first..self.first + u64::from(self.count)
    }
}

/// Takes one execution out of runs, which may split one in two.
pub(super) fn remove_from(runs: &mut VecDeque<Run>, seq: u64) -> Option<Run> {
    let place = runs.iter().position(|run| run.holds(seq))?;
    let run = runs[place];
    let before = u32::try_from(seq - run.first).unwrap_or(u32::MAX);
    let after = run.count - before - 1;
    runs.remove(place);
    if after > 0 {
        let (first, count) = (seq + 1, after);
        runs.insert(
            place,
            Run {
                first,
                count,
                ..run
            },
        );
    }
    if before > 0 {
        let count = before;
        runs.insert(place, Run { count, ..run });
    }
    let (first, count) = (seq, 1);
    Some(Run {
        first,
        count,
        ..run
    })
}

/// Everything that waits for a slot, by line, in order.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct WaitingSet {
    lines: FxHashMap<Class, Line>,
    len: u64,
    runs: usize,
    stored: u64,
}

/// What waits in one line, and how many they are in all.
#[derive(Clone, PartialEq, Default, Debug)]
struct Line {
    /// What is known of those at its head.
    runs: VecDeque<Run>,
    /// Those behind them.
    beyond: VecDeque<Beyond>,
    len: u64,
}

/// A part of a line that begins with what must be read from its table.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Beyond {
    pub(super) stored: Stored,
    /// What stands behind that.
    pub(super) runs: VecDeque<Run>,
}

impl WaitingSet {
    /// How many executions wait.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many runs are in memory: what it takes.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.runs
    }

    /// How many executions wait in their table alone.
    #[must_use]
    pub fn stored_count(&self) -> u64 {
        self.stored
    }

    /// The lines in which something waits; in no order.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        self.lines.keys().copied()
    }

    /// How many wait in each line, without a walk through any; in no order.
    pub fn lens(&self) -> impl Iterator<Item = (Class, u64)> {
        self.lines.iter().map(|(class, line)| (*class, line.len))
    }

    /// What is known of those at the head of one line.
    #[must_use]
    pub fn head(&self, class: Class) -> Option<&VecDeque<Run>> {
        self.lines.get(&class).map(|line| &line.runs)
    }

    /// What is in memory of one line, in order.
    pub fn line(&self, class: Class) -> impl DoubleEndedIterator<Item = &Run> {
        self.lines.get(&class).into_iter().flat_map(Line::runs)
    }

    /// What is in memory of all lines; in no order of these.
    pub fn runs(&self) -> impl Iterator<Item = (Class, &Run)> {
        let lines = self.lines.iter();
        lines.flat_map(|(class, line)| line.runs().map(|run| (*class, run)))
    }

    /// What waits in its table, of all lines; in order within each.
    pub fn stored(&self) -> impl Iterator<Item = (Class, &Stored)> {
        let lines = self.lines.iter();
        lines.flat_map(|(class, line)| line.beyond.iter().map(|b| (*class, &b.stored)))
    }

    /// What must be read of a line once what is known of its head is gone.
    #[must_use]
    pub fn next_stored(&self, class: Class) -> Option<&Stored> {
        let beyond = &self.lines.get(&class)?.beyond;
        beyond.front().map(|beyond| &beyond.stored)
    }

    /// The lines that have something to be read, and behind how many runs; in no order.
    pub fn to_be_read(&self) -> impl Iterator<Item = (Class, usize, &Stored)> {
        // Mostly there is nothing.
        let lines = self.lines.iter().filter(|_| self.stored > 0);
        lines.filter_map(|(class, line)| {
            Some((*class, line.runs.len(), &line.beyond.front()?.stored))
        })
    }

    /// The run of a line that holds an execution. Walks the line's runs.
    #[must_use]
    pub fn find(&self, class: Class, seq: u64) -> Option<Run> {
        self.line(class).find(|run| run.holds(seq)).copied()
    }

    /// Whether an execution that was accepted for at once waits in the table of a line.
    #[must_use]
    pub fn is_stored(&self, class: Class, seq: u64) -> bool {
        let line = self.lines.get(&class);
        line.is_some_and(|line| line.beyond.iter().any(|beyond| beyond.stored.holds(seq)))
    }

    /// Takes one execution out of its line, wherever it stands; the others keep their order.
    pub(super) fn remove(&mut self, class: Class, seq: u64) -> Option<Run> {
        let line = self.lines.get_mut(&class)?;
        let take = |runs: &mut VecDeque<Run>| {
            let before = runs.len();
            let taken = remove_from(runs, seq)?;
            Some((taken, before, runs.len()))
        };
        let beyond = || {
            line.beyond.iter_mut().find_map(|beyond| {
                let taken = take(&mut beyond.runs)?;
                // What comes next may be stored right behind those before it.
                beyond.stored.leave_out(seq);
                Some(taken)
            })
        };
        let (taken, before, after) = take(&mut line.runs).or_else(beyond)?;
        self.runs = self.runs + after - before;
        self.count_off(class, 1);
        Some(taken)
    }

    /// Counts one off that waits in its table; says whether it is there.
    pub(super) fn remove_stored(&mut self, class: Class, seq: u64) -> bool {
        let Some(line) = self.lines.get_mut(&class) else {
            return false;
        };
        let there = line.beyond.iter_mut().any(|b| b.stored.cancel(seq));
        if there {
            line.join_up();
            self.stored -= 1;
            self.count_off(class, 1);
        }
        there
    }

    /// What a snapshot says of a line.
    pub(super) fn restore(&mut self, class: Class, runs: VecDeque<Run>, beyond: VecDeque<Beyond>) {
        let mut line = Line {
            runs,
            beyond,
            len: 0,
        };
        let known: u64 = line.runs().map(|run| u64::from(run.count)).sum();
        let stored: u64 = line.beyond.iter().map(|b| b.stored.count).sum();
        line.len = known + stored;
        self.len += line.len;
        self.runs += line.runs().count();
        self.stored += stored;
        if line.len > 0 {
            self.lines.insert(class, line);
        }
    }

    pub(super) fn push_back(&mut self, class: Class, run: Run) {
        self.runs += 1;
        let line = self.count_on(class, u64::from(run.count));
        match line.beyond.back_mut() {
            Some(last) => last.runs.push_back(run),
            None => line.runs.push_back(run),
        }
    }

    pub(super) fn push_front(&mut self, class: Class, run: Run) {
        self.runs += 1;
        let line = self.count_on(class, u64::from(run.count));
        line.runs.push_front(run);
    }

    /// More waits at the end of a line, in its table alone.
    pub(super) fn push_stored(&mut self, class: Class, stored: Stored) {
        self.stored += stored.count;
        let line = self.count_on(class, stored.count);
        match line.beyond.back_mut() {
            Some(last) if last.runs.is_empty() => last.stored.extend(&stored),
            _ => {
                let runs = VecDeque::new();
                line.beyond.push_back(Beyond { stored, runs });
            }
        }
    }

    /// The first that wait in the table of a line come to the end of its head.
    ///
    /// # Errors
    /// [`Misread`]: they aren't.
    pub(super) fn recall(&mut self, recalled: &Recalled) -> Result<(), Misread> {
        let Some(line) = self.lines.get_mut(&recalled.class) else {
            return Ok(());
        };
        let Some(first) = line.beyond.front_mut() else {
            return Ok(());
        };
        let before = first.stored.count;
        first.stored.take(recalled)?;
        self.stored -= before - first.stored.count;
        self.runs += recalled.runs.len();
        line.runs.extend(&recalled.runs);
        line.join_up();
        Ok(())
    }

    /// Takes `count` executions that begin with `first` off the head of a line; `None`, with nothing
    /// changed, if the line doesn't begin with them as one run.
    pub(super) fn pop_front(&mut self, class: Class, first: u64, count: u32) -> Option<Run> {
        let runs = &mut self.lines.get_mut(&class)?.runs;
        let head = runs.front_mut()?;
        if head.first != first || head.count < count || count == 0 {
            return None;
        }
        let taken = Run { count, ..*head };
        head.first += u64::from(count);
        head.count -= count;
        if head.count == 0 {
            runs.pop_front();
            self.runs -= 1;
        }
        self.count_off(class, u64::from(count));
        Some(taken)
    }

    pub(super) fn beyond(&self, class: Class) -> impl Iterator<Item = &Beyond> {
        let line = self.lines.get(&class);
        line.into_iter().flat_map(|line| &line.beyond)
    }

    fn count_on(&mut self, class: Class, count: u64) -> &mut Line {
        let line = self.lines.entry(class).or_default();
        line.len += count;
        self.len += count;
        line
    }

    /// So many left a line; one that is empty goes.
    fn count_off(&mut self, class: Class, count: u64) {
        self.len -= count;
        if let Entry::Occupied(mut line) = self.lines.entry(class) {
            line.get_mut().len -= count;
            if line.get().len == 0 {
                line.remove();
            }
        }
    }
}

impl Line {
    fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> {
        let beyond = self.beyond.iter().flat_map(|beyond| &beyond.runs);
        self.runs.iter().chain(beyond)
    }

    /// Where nothing is to be read any more, what stands behind that is next.
    fn join_up(&mut self) {
        while let Some(first) = self.beyond.pop_front_if(|first| first.stored.count == 0) {
            self.runs.extend(first.runs);
        }
    }
}
