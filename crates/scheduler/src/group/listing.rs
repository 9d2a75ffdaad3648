//! What a group's memory says for lists: what is open in its lanes, and where executions stand.

use std::ops::Range;

use domain::lane::{Class, DueMark, Lane, Run, Wait};
use domain::{ExecutionState, Foremost, Hour, LaneId, ListMark, Micros, Stretch};

use super::actor::Group;
use super::memory::InMemory;

/// What is wanted of a list of open executions.
#[derive(Clone, Debug)]
pub(crate) struct OpenList {
    pub(crate) tenant: i32,
    pub(crate) queues: Vec<i32>,
    /// Any of these.
    pub(crate) states: Vec<ExecutionState>,
    /// Any of these; `None`: all.
    pub(crate) job_types: Option<Vec<i32>>,
    /// What comes after this place.
    pub(crate) before: ListMark,
    pub(crate) limit: usize,
}

/// An open execution. In lists of them its time is when it is due if it waits for that, or else since when it
/// is queued or runs.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) home: Hour,
    pub(crate) memory: InMemory,
}

/// What is open in some lanes.
pub(crate) struct OpenFound {
    pub(crate) list: Stretch<Open>,
    /// How far the due entries of each lane are read: what is due later is not in the list.
    pub(crate) due_read: Vec<(LaneId, DueMark)>,
    /// From when to when those were accepted that wait in their table alone and aren't in the list, if any do.
    pub(crate) stored: Option<(Micros, Micros)>,
}

/// An execution that isn't over by its rows, and what they tell of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    pub(crate) lane: LaneId,
    pub(crate) seq: u64,
    /// What time it waits for, unless that has come to pass.
    pub(crate) waits: Option<(Wait, Micros)>,
    /// Since when it is queued, if it is.
    pub(crate) queued: Micros,
}

impl Group {
    /// What is open in lanes of this group.
    pub(super) fn list_open(&self, list: &OpenList, lanes: &[LaneId]) -> Option<OpenFound> {
        if self.shared.deadline.has_passed() {
            return None;
        }
        let mut found = Foremost::new(list.before, list.limit);
        let mut due_read = Vec::with_capacity(lanes.len());
        let mut stored = None;
        for id in lanes {
            let lane = self.lanes.get(id)?;
            list.look_into(lane, &mut found);
            due_read.push((*id, lane.due_read()));
            stored = joined(stored, list.stored_in(lane));
        }
        Some(OpenFound {
            list: found.into_stretch(),
            due_read,
            stored,
        })
    }

    /// Where executions of this group's lanes stand.
    pub(super) fn locate(&self, sought: &[Sought]) -> Option<Vec<InMemory>> {
        if self.shared.deadline.has_passed() {
            return None;
        }
        let now = self.shared.clock.now();
        let locate = |sought: &Sought| Some(sought.within(self.lanes.get(&sought.lane)?, now));
        sought.iter().map(locate).collect()
    }
}

/// From the earlier beginning of two times to the later end.
pub(crate) fn joined(
    one: Option<(Micros, Micros)>,
    other: Option<(Micros, Micros)>,
) -> Option<(Micros, Micros)> {
    let both = one.zip(other);
    let joined = both.map(|(one, other)| (one.0.min(other.0), one.1.max(other.1)));
    joined.or(one).or(other)
}

impl OpenList {
    fn look_into(&self, lane: &Lane, found: &mut Foremost<Open>) {
        if self.states.contains(&ExecutionState::Queued) {
            self.look_at_lines(lane, found);
        }
        if self.states.contains(&ExecutionState::Running) {
            self.look_at_running(lane, found);
        }
        self.look_at_timers(lane, found);
    }

    fn concerns(&self, class: &Class) -> bool {
        let queue = class.tenant == self.tenant && self.queues.contains(&class.queue);
        let wanted = self.job_types.as_ref();
        queue && wanted.is_none_or(|wanted| wanted.contains(&class.job_type))
    }

    /// Walks every run of the lines, since what came back to the head of one is newer than what follows it;
    /// from the end, where most of what is wanted is.
    fn look_at_lines(&self, lane: &Lane, found: &mut Foremost<Open>) {
        let waiting = lane.waiting();
        let lines = waiting.classes().filter(|class| self.concerns(class));
        for run in lines.flat_map(|class| waiting.line(class).rev()) {
            for seq in self.seqs_below(lane.id(), run).rev() {
                let (at, lane) = (run.enqueued, lane.id());
                let mark = ListMark { at, lane, seq };
                if !found.wants(mark) {
                    break;
                }
                let (home, memory) = (run.home, InMemory::Queued { since: at });
                found.add(mark, Open { home, memory });
            }
        }
    }

    /// From when to when those were accepted that wait in their table alone.
    fn stored_in(&self, lane: &Lane) -> Option<(Micros, Micros)> {
        let stored = lane.waiting().stored();
        let spans = stored.filter(|(class, _)| self.concerns(class));
        let times = spans.map(|(_, stored)| (stored.span().since, stored.span().until));
        times.map(Some).fold(None, joined)
    }

    /// Those of a run that come after the place where the list begins.
    fn seqs_below(&self, lane: LaneId, run: &Run) -> Range<u64> {
        let end = run.first + u64::from(run.count);
        let end = match (run.enqueued, lane).cmp(&(self.before.at, self.before.lane)) {
            std::cmp::Ordering::Less => end,
            std::cmp::Ordering::Equal => end.min(self.before.seq),
            std::cmp::Ordering::Greater => run.first,
        };
        run.first..end
    }

    fn look_at_running(&self, lane: &Lane, found: &mut Foremost<Open>) {
        let running = lane.running().iter();
        for (seq, running) in running.filter(|(_, running)| self.concerns(&running.class)) {
            let mark = ListMark {
                at: running.claimed,
                lane: lane.id(),
                seq: *seq,
            };
            if found.wants(mark) {
                let (home, memory) = (running.home, running.into());
                found.add(mark, Open { home, memory });
            }
        }
    }

    fn look_at_timers(&self, lane: &Lane, found: &mut Foremost<Open>) {
        let concerns = |wait: Wait| self.states.contains(&wait.into());
        let begin = DueMark {
            due: self.before.at,
            seq: u64::MAX,
        };
        for (due, timed) in lane.timers().range(..=begin).rev() {
            let mark = ListMark {
                at: due.due,
                lane: lane.id(),
                seq: due.seq,
            };
            if found.floor().is_some_and(|floor| mark < floor) {
                return;
            }
            if concerns(timed.wait) && self.concerns(&timed.class) {
                let (home, wait) = (timed.home, timed.wait);
                let memory = InMemory::Timed { wait };
                found.add(mark, Open { home, memory });
            }
        }
    }
}

impl Sought {
    /// Where it stands in its lane, by elimination: what isn't over, doesn't run and waits for no time is in
    /// its line, which needn't be searched.
    fn within(&self, lane: &Lane, now: Micros) -> InMemory {
        if let Some(running) = lane.running().get(&self.seq) {
            return running.into();
        }
        let waits = self.waits.filter(|(_, due)| {
            let (due, seq) = (*due, self.seq);
            let mark = DueMark { due, seq };
            due > now || mark > lane.due_read() || lane.timers().contains_key(&mark)
        });
        match waits {
            Some((wait, _)) => InMemory::Timed { wait },
            None => InMemory::Queued { since: self.queued },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExecutionState::{Queued, Retrying, Running, Scheduled};
    use domain::lane::{Draft, Row};
    use domain::{Budgets, Decision, Priority, Reason, Verdict};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    const LANE: LaneId = LaneId(3);
    const OPEN: [ExecutionState; 4] = [Scheduled, Queued, Running, Retrying];

    fn class(queue: i32, job_type: i32) -> Class {
        let (tenant, priority) = (1, Priority::Normal);
        Class {
            tenant,
            queue,
            priority,
            job_type,
            suspect: false,
        }
    }

    fn seconds(at: i64) -> Micros {
        Micros(at * 1_000_000)
    }

    fn step(lane: &mut Lane, at: i64, plan: impl FnOnce(&mut Draft<'_>)) {
        let mut draft = lane.draft(seconds(at));
        plan(&mut draft);
        let row = draft.seal(7);
        lane.apply(&row).unwrap();
    }

    fn end(draft: &mut Draft<'_>, seq: u64, verdict: Verdict) {
        let decision = Decision {
            verdict,
            reason: Reason::None,
            budgets: Budgets::default(),
        };
        let fence = draft.lane().running()[&seq].fence;
        draft.end(seq, fence, &decision).unwrap();
    }

    /// A lane whose due entries are read to second 1000, with executions in every open state.
    fn lane() -> Lane {
        let mut lane = Lane::begin(&Row::genesis(LANE, seconds(1))).unwrap();
        let read = DueMark {
            due: seconds(1_000),
            seq: 0,
        };
        step(&mut lane, 10, |draft| {
            draft.read_due(read, []);
            draft.accept(class(1, 1), 4);
            draft.claim(class(1, 1), 4, &Arc::from("worker-1"));
        });
        step(&mut lane, 20, |draft| {
            draft.accept(class(1, 1), 3);
            draft.accept(class(2, 1), 2);
            draft.schedule(class(1, 2), seconds(500));
        });
        step(&mut lane, 30, |draft| {
            draft.accept(class(1, 2), 1);
            end(draft, 1, Verdict::Requeue);
            end(draft, 2, Verdict::RetryAfter(Duration::from_secs(100)));
            end(draft, 3, Verdict::RetryAfter(Duration::from_secs(5_000)));
        });
        lane
    }

    fn list(queues: &[i32], states: &[ExecutionState]) -> OpenList {
        OpenList {
            tenant: 1,
            queues: queues.to_vec(),
            states: states.to_vec(),
            job_types: None,
            before: ListMark::BEGIN,
            limit: 100,
        }
    }

    /// All pages of a list, as seconds, numbers and states.
    fn pages(lane: &Lane, mut list: OpenList) -> Vec<(i64, u64, ExecutionState)> {
        let mut all = Vec::new();
        loop {
            let mut found = Foremost::new(list.before, list.limit);
            list.look_into(lane, &mut found);
            let found = found.into_stretch();
            all.extend(found.items.iter().map(|(mark, open)| {
                let state = match &open.memory {
                    InMemory::Queued { since } => {
                        assert_eq!(*since, mark.at);
                        Queued
                    }
                    InMemory::Running { claimed, .. } => {
                        assert_eq!(*claimed, mark.at);
                        Running
                    }
                    InMemory::Timed { wait } => (*wait).into(),
                    InMemory::Unknown => panic!("memory knows {mark:?}"),
                };
                (mark.at.0 / 1_000_000, mark.seq, state)
            }));
            match found.end {
                Some(end) => list.before = end,
                None => return all,
            }
        }
    }

    #[test]
    fn what_is_open_is_listed_once_page_by_page_the_latest_first() {
        let lane = lane();
        let expected = [
            (500, 10, Scheduled),
            (130, 2, Retrying),
            (30, 11, Queued),
            (30, 1, Queued),
            (20, 7, Queued),
            (20, 6, Queued),
            (20, 5, Queued),
            (10, 4, Running),
        ];
        for limit in 1..=9 {
            let list = OpenList {
                limit,
                ..list(&[1], &OPEN)
            };
            assert_eq!(pages(&lane, list), expected, "by {limit}");
        }
    }

    #[test]
    fn states_queues_types_and_tenants_are_told_apart() {
        let lane = lane();
        let seqs = |list| {
            let pages = pages(&lane, list).into_iter();
            pages.map(|(_, seq, _)| seq).collect::<Vec<_>>()
        };
        assert_eq!(seqs(list(&[1, 2], &[Queued])), [11, 1, 9, 8, 7, 6, 5]);
        assert_eq!(seqs(list(&[2], &OPEN)), [9, 8]);
        assert_eq!(seqs(list(&[1], &[Running])), [4]);
        assert_eq!(seqs(list(&[1], &[Scheduled])), [10]);
        assert_eq!(seqs(list(&[1], &[Retrying])), [2]);
        let of_type = OpenList {
            job_types: Some(vec![2, 3]),
            ..list(&[1, 2], &OPEN)
        };
        assert_eq!(seqs(of_type), [10, 11]);
        let of_other = OpenList {
            tenant: 2,
            ..list(&[1, 2], &OPEN)
        };
        assert!(seqs(of_other).is_empty());
    }

    #[test]
    fn an_execution_is_located_without_a_search_of_its_line() {
        let lane = lane();
        let located_at = |now: i64, seq: u64, waits: Option<(Wait, i64)>| {
            let sought = Sought {
                lane: LANE,
                seq,
                waits: waits.map(|(wait, due)| (wait, seconds(due))),
                queued: seconds(7),
            };
            match sought.within(&lane, seconds(now)) {
                InMemory::Queued { since } if since == seconds(7) => Some(Queued),
                InMemory::Running { claimed, .. } if claimed == seconds(10) => Some(Running),
                InMemory::Timed { wait } => Some(wait.into()),
                _ => None,
            }
        };
        let expected = BTreeMap::from([
            (4, (None, Running)),
            (5, (None, Queued)),
            (10, (Some((Wait::Scheduled, 500)), Scheduled)),
            (2, (Some((Wait::Retrying, 130)), Retrying)),
            // Beyond what is read of the due entries.
            (3, (Some((Wait::Retrying, 5_030)), Retrying)),
            // Its time has come, and it was taken into its line.
            (6, (Some((Wait::Scheduled, 39)), Queued)),
            // Its time hasn't come, whatever memory knows of it.
            (99, (Some((Wait::Scheduled, 41)), Scheduled)),
        ]);
        for (seq, (waits, state)) in &expected {
            assert_eq!(located_at(40, *seq, *waits), Some(*state), "{seq}");
        }
        // An owner that is behind: their times have come, and they wait still.
        for seq in [10, 2, 3] {
            let (waits, state) = expected[&seq];
            assert_eq!(located_at(6_000, seq, waits), Some(state), "{seq}");
        }
    }
}
