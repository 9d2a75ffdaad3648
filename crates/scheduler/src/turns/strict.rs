//! Queues in which a higher priority goes first, always.

use std::collections::VecDeque;

use crate::dispatch::{Candidate, Places};

/// The lines of a strict queue that let its higher priorities go first.
#[derive(Default)]
pub(super) struct HeldBack {
    /// The most urgent first.
    lines: VecDeque<Candidate>,
    /// How many lines of the queue have their turns now: all of one priority.
    in_turn: usize,
    /// The sessions that could run something of a higher priority which waits for room or is being
    /// read: what they have free is not for what is less urgent.
    taken: Vec<usize>,
}

impl HeldBack {
    /// Adds a line that is no more urgent than those before.
    pub(super) fn add(&mut self, line: Candidate) {
        self.lines.push_back(line);
    }

    /// A line that had its turns leaves. `waiting`: it has work, and these could run it.
    pub(super) fn leave(&mut self, waiting: Option<&Places>) {
        self.in_turn = self.in_turn.saturating_sub(1);
        let waiting = waiting.into_iter().flat_map(|places| places.iter());
        self.taken.extend(waiting);
    }

    /// The lines whose turns begin now that nothing more urgent has any.
    pub(super) fn release(&mut self) -> Vec<Candidate> {
        let mut released = Vec::new();
        while self.in_turn == 0
            && let Some(first) = self.lines.front()
        {
            let priority = first.class.priority;
            let less_urgent = |line: &Candidate| line.class.priority != priority;
            let end = self.lines.iter().position(less_urgent);
            let lines = self.lines.drain(..end.unwrap_or(self.lines.len()));
            released.extend(lines.filter_map(|line| without(line, &self.taken)));
            self.in_turn = released.len();
        }
        released
    }
}

/// The line for those of its sessions that aren't taken.
fn without(mut line: Candidate, taken: &[usize]) -> Option<Candidate> {
    if !taken.is_empty() {
        let free = |place: &usize| !taken.contains(place);
        line.sessions = line.sessions.iter().copied().filter(free).collect();
    }
    (!line.sessions.is_empty()).then_some(line)
}
