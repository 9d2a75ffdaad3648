//! What is asked back of workers when something more urgent waits.

use std::cmp::Reverse;

use domain::{ExecutionId, Micros, Priority};

use crate::dispatch::Places;

/// A line that waits, and none of whose workers has room.
#[derive(Debug)]
pub(super) struct Blocked {
    pub(super) priority: Priority,
    /// When the first in it came.
    pub(super) since: Micros,
    pub(super) count: u64,
    pub(super) sessions: Places,
}

/// A task that a worker was handed and has said nothing of: nobody here knows whether it has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HandedOut {
    pub(super) id: ExecutionId,
    pub(super) fence: u64,
    pub(super) priority: Priority,
    pub(super) claimed: Micros,
    /// The place of its session.
    pub(super) session: usize,
}

/// The tasks to be asked back: for each execution that waits one that is less urgent and was handed out before
/// there was anything more urgent, the last ones handed out first. `beyond`: how many tasks each session has
/// beyond its window, which must come back before there is room for one.
///
/// What was handed out later was somebody's fair turn: else the more urgent would take all that others get, and
/// tasks would go to and fro.
pub(super) fn choose(
    mut blocked: Vec<Blocked>,
    mut handed_out: Vec<HandedOut>,
    beyond: &mut [u64],
) -> Vec<HandedOut> {
    blocked.sort_by_key(|line| (line.priority, line.since));
    handed_out.sort_unstable_by_key(|task| Reverse((task.claimed, task.fence, task.id.seq())));
    let mut chosen = Vec::new();
    for line in blocked {
        let mut needed = line.count;
        handed_out.retain(|task| {
            let gives_way = task.priority > line.priority
                && task.claimed < line.since
                && line.sessions.contains(&task.session);
            if needed == 0 || !gives_way {
                return true;
            }
            match &mut beyond[task.session] {
                0 => needed -= 1,
                beyond => *beyond -= 1,
            }
            chosen.push(*task);
            false
        });
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(priority: Priority, since: i64, count: u64, sessions: &[usize]) -> Blocked {
        Blocked {
            priority,
            since: Micros(since),
            count,
            sessions: sessions.into(),
        }
    }

    fn task(priority: Priority, claimed: i64, session: usize) -> HandedOut {
        HandedOut {
            id: ExecutionId::from_bytes([0; 16]),
            fence: claimed.unsigned_abs(),
            priority,
            claimed: Micros(claimed),
            session,
        }
    }

    fn fences(blocked: Vec<Blocked>, handed_out: &[HandedOut], beyond: &mut [u64]) -> Vec<u64> {
        let chosen = choose(blocked, handed_out.to_vec(), beyond);
        chosen.iter().map(|task| task.fence).collect()
    }

    const HIGH: Priority = Priority::High;
    const LOW: Priority = Priority::Low;

    #[test]
    fn the_last_handed_out_come_back_and_no_more_than_wait() {
        let tasks = [1, 2, 3, 4].map(|claimed| task(LOW, claimed, 0));
        assert_eq!(
            fences(vec![line(HIGH, 9, 2, &[0])], &tasks, &mut [0]),
            [4, 3]
        );
        let both = vec![line(HIGH, 9, 1, &[0]), line(Priority::Critical, 9, 1, &[0])];
        assert_eq!(fences(both, &tasks, &mut [0]), [4, 3]);
    }

    #[test]
    fn what_is_as_urgent_or_came_later_or_is_elsewhere_stays() {
        let tasks = [
            task(HIGH, 1, 0),
            task(LOW, 2, 1),
            task(LOW, 9, 0),
            task(LOW, 3, 0),
        ];
        assert_eq!(
            fences(vec![line(HIGH, 9, 9, &[0])], &tasks, &mut [0, 0]),
            [3]
        );
        assert!(fences(vec![line(LOW, 9, 9, &[0, 1])], &tasks, &mut [0, 0]).is_empty());
    }

    #[test]
    fn what_is_beyond_the_window_comes_back_first() {
        let tasks = [1, 2, 3, 4, 5].map(|claimed| task(LOW, claimed, 0));
        let blocked = || vec![line(HIGH, 9, 1, &[0])];
        assert_eq!(fences(blocked(), &tasks, &mut [2]), [5, 4, 3]);
        assert_eq!(fences(Vec::new(), &tasks, &mut [2]), [0; 0]);
    }
}
