//! Who gets what waits.

use std::sync::Arc;

use domain::LaneId;
use domain::lane::{Class, Run};

use super::{ClaimedTask, Planner};
use crate::dispatch::{Candidate, Servings};
use crate::group::side::Held;
use crate::session::{Session, Slot};
use crate::shared::Work;
use crate::turns::{Leaves, Turns};

/// Claims of one batch.
const CLAIMS: usize = 1_000;
/// Executions that one line gets at most in one turn: one while room is scarce, so that the weights
/// hold exactly; more when there is plenty.
const TURN: u32 = 16;

impl Planner<'_> {
    /// Claims what waits for the workers that have room. Gives the lines that somebody would run and
    /// whose heads must be read first.
    pub(in crate::group) fn claim(
        &mut self,
        sessions: &[Arc<Session>],
        turns: &mut Turns<'_>,
    ) -> Vec<(LaneId, Run, Class)> {
        let mut lacking = Vec::new();
        // Where the turns among workers begin: anywhere, or the first would get all of a light load.
        let mut begin = usize::try_from(self.at.0).unwrap_or(0);
        sessions
            .iter()
            .for_each(|session| session.set_wanted(self.group, false));
        while self.effects.claimed.len() < CLAIMS {
            let Some(candidate) = turns.next() else {
                break;
            };
            let (lane, class) = (candidate.lane, candidate.class);
            begin = begin.wrapping_add(1);
            let taker = turn_of(sessions, &candidate.sessions, begin, (self.group, class));
            let Some(session) = taker else {
                // Room that another group has now must come here too.
                let places = candidate.sessions.iter().map(|place| &sessions[*place]);
                let lack_room = places.filter(|session| session.takes(class));
                lack_room.for_each(|session| session.set_wanted(self.group, true));
                // A suspect waits for others of its kind: that keeps nobody else waiting.
                turns.leave(
                    class.priority,
                    if class.suspect {
                        Leaves::Empty
                    } else {
                        Leaves::Waiting
                    },
                );
                continue;
            };
            let claimed = self.effects.claimed.len();
            let stopped = self.claim_turn(lane, class, session);
            if self.effects.claimed.len() > claimed {
                turns.served();
            }
            match stopped {
                None => {}
                Some(Stopped::HeadsLack(run)) => {
                    lacking.push((lane, run, class));
                    turns.leave(class.priority, Leaves::Waiting);
                }
                Some(Stopped::ToBeRead) => turns.leave(class.priority, Leaves::Waiting),
                Some(Stopped::LineEmpty) => turns.leave(class.priority, Leaves::Empty),
            }
        }
        lacking
    }

    /// What a line gets in one turn: as much whether its executions came one by one or many together.
    fn claim_turn(
        &mut self,
        lane: LaneId,
        class: Class,
        session: &Arc<Session>,
    ) -> Option<Stopped> {
        let mut left = match class.suspect {
            true => 1,
            false => (session.free(self.group) / 4).clamp(1, TURN),
        };
        while left > 0 {
            match self.claim_run(lane, class, (session, left)) {
                // Another group may have taken the room in the meantime: then it is the next one's turn.
                Ok(0) => return None,
                Ok(count) => left = left.saturating_sub(count),
                Err(stopped) => return Some(stopped),
            }
        }
        None
    }

    /// Claims up to `most` of the run at the head of a line; gives how many.
    fn claim_run(
        &mut self,
        lane: LaneId,
        class: Class,
        (session, most): (&Arc<Session>, u32),
    ) -> Result<u32, Stopped> {
        let (Some(draft), Some(side)) = (self.drafts.get_mut(&lane), self.sides.get_mut(&lane))
        else {
            return Err(Stopped::LineEmpty);
        };
        let Some(head) = draft.peek(class) else {
            return Err(match draft.is_to_be_read(class) {
                true => Stopped::ToBeRead,
                false => Stopped::LineEmpty,
            });
        };
        let front = (head.first, head.count.min(most));
        let known = side.heads.known_from(front, |seq| draft.saved(seq));
        if known == 0 {
            return Err(Stopped::HeadsLack(head));
        }
        let take = || match class.suspect {
            true => session.try_take(self.group)?.for_suspect(),
            false => session.try_take(self.group),
        };
        let slots: Vec<Slot> = (0..known).map_while(|_| take()).collect();
        let count = u32::try_from(slots.len()).unwrap_or(0);
        let fence = draft.fence();
        let Some(run) = draft.claim(class, count, &session.worker_id) else {
            return Ok(0);
        };
        for (seq, slot) in (run.first..).zip(slots) {
            let Some(known) = side.heads.take(seq) else {
                continue;
            };
            let held = Held::new(Some(slot), known.clone());
            side.held.insert(seq, held);
            self.effects.claimed.push(ClaimedTask {
                session: Arc::clone(session),
                timeout: known.timeout(self.at),
                known,
                fence,
                suspect: class.suspect,
                attempt: run.budgets.attempts + 1,
                enqueued: run.enqueued,
            });
        }
        Ok(count)
    }

    /// The lines in which something waits that one of the sessions serves.
    pub(in crate::group) fn candidates(
        &mut self,
        sessions: &[Arc<Session>],
        servings: &mut Servings,
        unknown: &mut Vec<(LaneId, Run, Class)>,
    ) -> Vec<Candidate> {
        servings.begin(sessions);
        let waiting = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.waiting().is_empty());
        for lane in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.draft(lane);
        }
        let mut candidates = Vec::new();
        for (lane, draft) in &self.drafts {
            let Some(side) = self.sides.get(lane) else {
                continue;
            };
            for class in draft.classes() {
                let run = draft.peek(class);
                if run.is_none() && !draft.is_to_be_read(class) {
                    continue;
                }
                // A line's names come with its heads.
                let Some(known) = run.and_then(|run| side.heads.get(run.first)) else {
                    unknown.extend(run.map(|run| (*lane, run, class)));
                    if self.options.is_strict(class.queue) {
                        // Until it is known who may run it, nobody runs what is less urgent.
                        candidates.push(Candidate {
                            lane: *lane,
                            class,
                            sessions: (0..sessions.len()).collect(),
                        });
                    }
                    continue;
                };
                let Work {
                    queue, job_type, ..
                } = &*known.work;
                let sessions = servings.who(class, (&queue.name, job_type), sessions);
                if !sessions.is_empty() {
                    candidates.push(Candidate {
                        lane: *lane,
                        class,
                        sessions: Arc::clone(sessions),
                    });
                }
            }
        }
        candidates
    }
}

/// Why a line gets no more.
enum Stopped {
    LineEmpty,
    /// What is next in it waits in its table.
    ToBeRead,
    HeadsLack(Run),
}

/// The first of the sessions that has room, beginning at another one each turn.
fn turn_of<'s>(
    sessions: &'s [Arc<Session>],
    places: &[usize],
    begin: usize,
    (group, class): (usize, Class),
) -> Option<&'s Arc<Session>> {
    let turns = (0..places.len()).map(|step| places[begin.wrapping_add(step) % places.len()]);
    turns
        .map(|place| &sessions[place])
        .filter(|session| session.takes(class))
        .find(|session| session.free(group) > 0)
}
