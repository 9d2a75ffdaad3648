use std::collections::VecDeque;

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
    lines: FxHashMap<Class, VecDeque<Run>>,
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
        self.lines.iter().map(|(class, runs)| (*class, runs))
    }

    /// What waits in one line, the head first.
    #[must_use]
    pub fn line(&self, class: Class) -> Option<&VecDeque<Run>> {
        self.lines.get(&class)
    }

    /// The run of a line that holds an execution. Walks the line's runs.
    #[must_use]
    pub fn find(&self, class: Class, seq: u64) -> Option<Run> {
        let runs = self.lines.get(&class)?;
        runs.iter().find(|run| run.holds(seq)).copied()
    }

    /// Takes one execution out of its line, wherever it stands; the others keep their order.
    pub(super) fn remove(&mut self, class: Class, seq: u64) -> Option<Run> {
        let runs = self.lines.get_mut(&class)?;
        let taken = remove_from(runs, seq)?;
        if runs.is_empty() {
            self.lines.remove(&class);
        }
        self.len -= 1;
        Some(taken)
    }

    /// What a snapshot says of a line.
    pub(super) fn restore(&mut self, class: Class, runs: VecDeque<Run>) {
        self.len += runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        if !runs.is_empty() {
            self.lines.insert(class, runs);
        }
    }

    pub(super) fn push_back(&mut self, class: Class, run: Run) {
        self.len += u64::from(run.count);
        self.lines.entry(class).or_default().push_back(run);
    }

    pub(super) fn push_front(&mut self, class: Class, run: Run) {
        self.len += u64::from(run.count);
        self.lines.entry(class).or_default().push_front(run);
    }

    /// Takes `count` executions that begin with `first` off the head of a line; `None`, with nothing
    /// changed, if the line doesn't begin with them as one run.
    pub(super) fn pop_front(&mut self, class: Class, first: u64, count: u32) -> Option<Run> {
        let runs = self.lines.get_mut(&class)?;
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
        if runs.is_empty() {
            self.lines.remove(&class);
        }
        self.len -= u64::from(count);
        Some(taken)
    }
}
