use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::Class;
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
}

/// What waits in one line, and how many they are in all.
#[derive(Clone, PartialEq, Default, Debug)]
struct Line {
    runs: VecDeque<Run>,
    len: u64,
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

    /// The lines in which something waits; in no order.
    pub fn lines(&self) -> impl Iterator<Item = (Class, &VecDeque<Run>)> {
        self.lines.iter().map(|(class, line)| (*class, &line.runs))
    }

    /// How many wait in each line, without a walk through any; in no order.
    pub fn lens(&self) -> impl Iterator<Item = (Class, u64)> {
        self.lines.iter().map(|(class, line)| (*class, line.len))
    }

    /// What waits in one line, the head first.
    #[must_use]
    pub fn line(&self, class: Class) -> Option<&VecDeque<Run>> {
        self.lines.get(&class).map(|line| &line.runs)
    }

    /// The run of a line that holds an execution. Walks the line's runs.
    #[must_use]
    pub fn find(&self, class: Class, seq: u64) -> Option<Run> {
        let runs = self.line(class)?;
        runs.iter().find(|run| run.holds(seq)).copied()
    }

    /// Takes one execution out of its line, wherever it stands; the others keep their order.
    pub(super) fn remove(&mut self, class: Class, seq: u64) -> Option<Run> {
        let taken = remove_from(&mut self.lines.get_mut(&class)?.runs, seq)?;
        self.count_off(class, 1);
        Some(taken)
    }

    /// What a snapshot says of a line.
    pub(super) fn restore(&mut self, class: Class, runs: VecDeque<Run>) {
        let len = runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        self.len += len;
        if !runs.is_empty() {
            self.lines.insert(class, Line { runs, len });
        }
    }

    pub(super) fn push_back(&mut self, class: Class, run: Run) {
        self.count_on(class, run).push_back(run);
    }

    pub(super) fn push_front(&mut self, class: Class, run: Run) {
        self.count_on(class, run).push_front(run);
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
        }
        self.count_off(class, u64::from(count));
        Some(taken)
    }

    fn count_on(&mut self, class: Class, run: Run) -> &mut VecDeque<Run> {
        let count = u64::from(run.count);
        let line = self.lines.entry(class).or_default();
        line.len += count;
        self.len += count;
        &mut line.runs
    }

    /// So many left a line; one that is empty goes.
    fn count_off(&mut self, class: Class, count: u64) {
        self.len -= count;
        if let Entry::Occupied(mut line) = self.lines.entry(class) {
            line.get_mut().len -= count;
            if line.get().runs.is_empty() {
                line.remove();
            }
        }
    }
}
