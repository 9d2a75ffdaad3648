//! Who gets what: the choice among the lines that wait and the workers that have room.

use std::sync::Arc;

use domain::lane::{Class, Round};
use domain::{LaneId, Priority};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::session::Session;

/// Wakes the lane groups when a worker has room. A ring is kept for a group that is busy.
#[derive(Debug)]
pub(crate) struct Bell(Vec<Notify>);

impl Bell {
    pub(crate) fn new(groups: usize) -> Self {
        Self((0..groups).map(|_| Notify::new()).collect())
    }

    pub(crate) fn ring(&self) {
        self.0.iter().for_each(Notify::notify_one);
    }

    pub(crate) async fn rung(&self, group: usize) {
        self.0[group].notified().await;
    }
}

/// A line of a lane in which something waits, and who may run it.
pub(crate) struct Candidate {
    pub(crate) lane: LaneId,
    pub(crate) class: Class,
    /// Places in the list of sessions.
    pub(crate) sessions: Vec<usize>,
}

/// The lines of one priority, in turn.
#[derive(Default)]
struct Ring {
    candidates: Vec<Candidate>,
    next: usize,
}

/// The lines that have work for somebody, as they take turns: weighted over the priorities, one after
/// the other within.
pub(crate) struct Turns<'a> {
    round: &'a mut Round,
    rings: [Ring; Priority::ALL.len()],
}

impl<'a> Turns<'a> {
    pub(crate) fn new(round: &'a mut Round, candidates: Vec<Candidate>) -> Self {
        let mut rings: [Ring; Priority::ALL.len()] = Default::default();
        for candidate in candidates {
            rings[place(candidate.class.priority)]
                .candidates
                .push(candidate);
        }
        Self { round, rings }
    }

    /// The line whose turn it is.
    pub(crate) fn next(&mut self) -> Option<(Priority, &Candidate)> {
        let rings = &self.rings;
        let priority = self
            .round
            .next(|p| !rings[place(p)].candidates.is_empty())?;
        let ring = &mut self.rings[place(priority)];
        ring.next = (ring.next + 1) % ring.candidates.len();
        Some((priority, &ring.candidates[ring.next]))
    }

    /// The line whose turn it was has nothing more for anybody.
    pub(crate) fn remove(&mut self, priority: Priority) {
        let ring = &mut self.rings[place(priority)];
        ring.candidates.swap_remove(ring.next);
    }
}

fn place(priority: Priority) -> usize {
    priority as usize - 1
}

/// Which sessions serve which lines: asked once for each pair, since it compares names.
#[derive(Default)]
pub(crate) struct Servings {
    known: FxHashMap<(u64, Class), bool>,
}

impl Servings {
    /// The places of those sessions that serve a line of this queue and type.
    pub(crate) fn who(
        &mut self,
        class: Class,
        queue: &str,
        job_type: &str,
        sessions: &[Arc<Session>],
    ) -> Vec<usize> {
        // A worker that is gone leaves its pairs behind; many mean that it is time to forget.
        if self.known.len() > 100_000 {
            self.known.clear();
        }
        let serves = |session: &Arc<Session>| {
            *self
                .known
                .entry((session.number, class))
                .or_insert_with(|| session.capabilities.serve(class.tenant, queue, job_type))
        };
        let mut serves = serves;
        sessions
            .iter()
            .enumerate()
            .filter(|(_, session)| serves(session))
            .map(|(i, _)| i)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(queue: i32, priority: Priority) -> Candidate {
        let class = Class {
            tenant: 1,
            queue,
            priority,
            job_type: 1,
        };
        Candidate {
            lane: LaneId(0),
            class,
            sessions: vec![0],
        }
    }

    #[test]
    fn lines_of_one_priority_take_turns_and_low_is_not_starved() {
        let mut round = Round::default();
        let lines = vec![
            candidate(1, Priority::Critical),
            candidate(2, Priority::Critical),
            candidate(3, Priority::Low),
        ];
        let mut turns = Turns::new(&mut round, lines);
        let mut served = [0; 4];
        for _ in 0..18 {
            let (_, candidate) = turns.next().unwrap();
            served[usize::try_from(candidate.class.queue).unwrap()] += 1;
        }
        assert_eq!(served, [0, 8, 8, 2]);
    }

    #[test]
    fn a_line_without_work_leaves_the_round() {
        let mut round = Round::default();
        let mut turns = Turns::new(&mut round, vec![candidate(1, Priority::High)]);
        let (priority, _) = turns.next().unwrap();
        turns.remove(priority);
        assert!(turns.next().is_none());
    }
}
