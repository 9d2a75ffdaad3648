//! Planning a batch: what came in, what ended, whose time has come, and who gets what. It changes
//! nothing of the lanes; what it takes from their sides is lost with them if the commit fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::lane::{Class, Draft, DueMark, Ending, Lane, Run, Running, TimedEntry};
use domain::{
    AttemptResult, Decision, ExecutionId, ExecutionState, IdKey, LaneId, Micros, Verdict,
};
use proto::v1::{Settlement, SettlementVerdict};
use rustc_hash::FxHashMap;
use store::{Batch, DueEntry, NewExecution, Outcome};
use tokio::sync::oneshot;

use super::input::{Incoming, NotTaken, Report, Submit};
use super::intake::settlement;
use super::side::{Held, Side};
use crate::dispatch::{Candidate, Servings, Turns};
use crate::session::{Session, Slot};
use crate::shared::{Known, Work};

/// Heads that one group keeps in memory at most, in bytes: what is beyond is read again when it is
/// wanted.
const HEADS_BYTES: usize = 32 << 20;
/// Claims of one batch.
const CLAIMS: usize = 1_000;
/// Executions that one line gets at most in one turn: one while room is scarce, so that the weights
/// hold exactly; more when there is plenty.
const TURN: u32 = 16;

/// Everything that follows once a batch is committed.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) replies: Vec<(oneshot::Sender<Verdicts>, Verdicts)>,
    pub(crate) accepted: Vec<(Known, std::time::SystemTime)>,
    pub(crate) promoted: Vec<(Class, u64)>,
    pub(crate) claimed: Vec<ClaimedTask>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) settlements: Vec<(Arc<Session>, Settlement)>,
}

/// One verdict for each item of a submission.
pub(crate) type Verdicts = Vec<Result<ExecutionId, NotTaken>>;

/// A task that goes out.
pub(crate) struct ClaimedTask {
    pub(crate) session: Arc<Session>,
    pub(crate) known: Known,
    pub(crate) fence: u64,
    pub(crate) attempt: u16,
    pub(crate) enqueued: Micros,
}

/// An attempt that came to its end.
pub(crate) struct Ended {
    pub(crate) known: Known,
    pub(crate) class: Class,
    pub(crate) fence: u64,
    pub(crate) attempt: u16,
    pub(crate) worker: Arc<str>,
    pub(crate) result: AttemptResult,
    pub(crate) decision: Decision,
    pub(crate) state: ExecutionState,
    pub(crate) run_us: i64,
    pub(crate) start_us: i64,
    pub(crate) error: Option<(String, String)>,
}

/// A batch while it is planned.
pub(super) struct Planner<'a> {
    pub(super) at: Micros,
    pub(super) id_key: &'a IdKey,
    /// The group's place among the scheduler's.
    pub(super) group: usize,
    pub(super) lanes: &'a BTreeMap<LaneId, Lane>,
    pub(super) sides: &'a mut FxHashMap<LaneId, Side>,
    pub(super) drafts: BTreeMap<LaneId, Draft<'a>>,
    pub(super) batch: Batch,
    pub(super) effects: Effects,
}

impl<'a> Planner<'a> {
    fn draft(&mut self, lane: LaneId) -> Option<&mut Draft<'a>> {
        let memory = self.lanes.get(&lane)?;
        Some(
            self.drafts
                .entry(lane)
                .or_insert_with(|| memory.draft(self.at)),
        )
    }

    /// What was read of the lanes' due entries.
    pub(super) fn read_due(&mut self, reads: Vec<(LaneId, DueMark, Vec<TimedEntry>)>) {
        for (lane, mark, entries) in reads {
            if let Some(draft) = self.draft(lane) {
                draft.read_due(mark, entries);
            }
        }
    }

    /// Attempts that ended, and what that makes of their executions.
    pub(super) fn end(&mut self, session: Option<&Arc<Session>>, reports: Vec<Report>) {
        for report in reports {
            let (id, fence) = (report.id, report.fence);
            let verdict = self.end_one(session, report);
            if let Some(session) = session {
                let settlement = settlement(id, fence, verdict);
                self.effects
                    .settlements
                    .push((Arc::clone(session), settlement));
            }
        }
    }

    /// A result counts if its lane is here, the fence is that of the running attempt, and it comes from the
    /// worker that the attempt was claimed for.
    fn end_one(&mut self, session: Option<&Arc<Session>>, report: Report) -> SettlementVerdict {
        let (lane, seq) = (report.id.lane(), report.id.seq());
        let Some(draft) = self.draft(lane) else {
            return SettlementVerdict::NotOwner;
        };
        let Ok(running) = draft.running(seq, report.fence) else {
            return SettlementVerdict::Stale;
        };
        let Some(held) = self.take_held(session, &report, running) else {
            return SettlementVerdict::Stale;
        };
        let policy = &held.known.work.policy;
        let draw = rand::random();
        let decision = domain::decide(
            report.result,
            report.permanent,
            running.budgets,
            policy,
            draw,
        );
        let ended = self
            .draft(lane)
            .map(|draft| draft.end(seq, report.fence, &decision));
        let Some(Ok(ending)) = ended else {
            return SettlementVerdict::Stale;
        };
        self.note_end(held.known, report, running, (decision, ending));
        SettlementVerdict::Recorded
    }

    /// What is held of a running attempt that somebody with the right to it reports. Its slot is free from
    /// here on: the next claim may be part of this very batch.
    fn take_held(
        &mut self,
        session: Option<&Arc<Session>>,
        report: &Report,
        running: &Running,
    ) -> Option<Held> {
        let seq = report.id.seq();
        let side = self.sides.get_mut(&report.id.lane())?;
        // The whole id, its tag too: a worker can't end what it was never told of.
        let genuine = side.held.get(&seq)?.known.id == report.id;
        let entitled = session.is_none_or(|session| session.may_hold(running));
        if !(genuine && entitled) {
            return None;
        }
        let held = side.held.remove(&seq)?;
        Some(Held {
            slot: None,
            known: held.known,
        })
    }

    fn note_end(
        &mut self,
        known: Known,
        report: Report,
        running: &Running,
        (decision, ending): (Decision, Ending),
    ) {
        let id = known.id;
        if let Ending::Retried {
            due,
            to_table: true,
        } = ending
        {
            let mark = DueMark { due, seq: id.seq() };
            let (class, home, budgets) = (running.class, running.home, decision.budgets);
            let entry = TimedEntry {
                mark,
                class,
                home,
                budgets,
            };
            self.batch.due.push(DueEntry {
                lane: id.lane(),
                entry,
            });
        }
        let goes_on = ending != Ending::Closed;
        let outcome = outcome_of(&known, &report, running, (decision, ending), self.at);
        self.effects.ended.push(Ended {
            class: running.class,
            fence: report.fence,
            attempt: outcome.attempt,
            worker: Arc::clone(&running.worker),
            result: report.result,
            decision,
            state: outcome.state,
            run_us: outcome.run_us,
            start_us: outcome.queued_us + outcome.dispatch_us,
            error: report.error,
            known: known.clone(),
        });
        self.batch.outcomes.push(outcome);
        if goes_on {
            self.remember(known);
        }
    }

    /// Moves what is due into its line.
    pub(super) fn promote(&mut self) {
        let now = self.at;
        let ripe = |lane: &Lane| {
            lane.timers()
                .keys()
                .next()
                .is_some_and(|mark| mark.due <= now)
        };
        let lanes = self
            .lanes
            .iter()
            .filter(|(_, lane)| ripe(lane))
            .map(|(id, _)| *id);
        let touched = self.drafts.keys().copied();
        let mut lanes: Vec<LaneId> = lanes.chain(touched).collect();
        lanes.sort_unstable();
        lanes.dedup();
        for lane in lanes {
            if let Some(draft) = self.draft(lane) {
                for (class, count) in draft.promote() {
                    self.effects.promoted.push((class, count));
                }
            }
        }
    }

    /// Accepts what was submitted, or says why not.
    pub(super) fn accept(&mut self, submits: Vec<Submit>) {
        for submit in submits {
            let mut verdicts: Verdicts = Vec::with_capacity(submit.items.len());
            let mut lines: BTreeMap<(LaneId, Class), Vec<(usize, Incoming)>> = BTreeMap::new();
            for (place, item) in submit.items.into_iter().enumerate() {
                verdicts.push(Err(NotTaken::NotOwner(item.lane)));
                lines
                    .entry((item.lane, item.work.class()))
                    .or_default()
                    .push((place, item));
            }
            for ((lane, class), items) in lines {
                self.accept_line(lane, class, items, &mut verdicts);
            }
            self.effects.replies.push((submit.reply, verdicts));
        }
    }

    /// Accepts items of one line together: their numbers follow each other.
    fn accept_line(
        &mut self,
        lane: LaneId,
        class: Class,
        items: Vec<(usize, Incoming)>,
        verdicts: &mut [Result<ExecutionId, NotTaken>],
    ) {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let Some(draft) = self.draft(lane) else {
            return;
        };
        let first = draft.accept(class, count);
        for (seq, (place, item)) in (first..).zip(items) {
            let id = ExecutionId::new(lane, seq, self.at, self.id_key);
            let head = Arc::clone(&item.work.head);
            let home = self.at.hour();
            self.batch.executions.push(NewExecution {
                lane,
                seq,
                home,
                head,
            });
            verdicts[place] = Ok(id);
            let known = Known {
                id,
                work: item.work,
            };
            self.effects.accepted.push((known.clone(), item.arrived));
            self.remember(known);
        }
    }

    /// Keeps what is known of an execution that waits, if there is room for it.
    fn remember(&mut self, known: Known) {
        let room: usize = HEADS_BYTES / self.lanes.len().max(1);
        if let Some(side) = self.sides.get_mut(&known.id.lane())
            && side.heads.bytes() < room
        {
            side.heads.insert(known.id.seq(), known);
        }
    }

    /// Claims what waits for the workers that have room. Gives the lines that somebody would run and
    /// whose heads must be read first.
    pub(super) fn claim(
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
            let Some((priority, candidate)) = turns.next() else {
                break;
            };
            let (lane, class) = (candidate.lane, candidate.class);
            begin = begin.wrapping_add(1);
            let Some(session) = turn_of(sessions, &candidate.sessions, begin, self.group) else {
                // Room that another group has now must come here too.
                for place in &candidate.sessions {
                    sessions[*place].set_wanted(self.group, true);
                }
                turns.remove(priority);
                continue;
            };
            match self.claim_some(lane, class, session) {
                Claim::Some => {}
                Claim::HeadsLack(run) => {
                    lacking.push((lane, run, class));
                    turns.remove(priority);
                }
                Claim::LineEmpty => turns.remove(priority),
            }
        }
        lacking
    }

    fn claim_some(&mut self, lane: LaneId, class: Class, session: &Arc<Session>) -> Claim {
        let (Some(draft), Some(side)) = (self.drafts.get_mut(&lane), self.sides.get_mut(&lane))
        else {
            return Claim::LineEmpty;
        };
        let Some(head) = draft.peek(class) else {
            return Claim::LineEmpty;
        };
        let free = session.free(self.group);
        let most = head.count.min((free / 4).clamp(1, TURN));
        let known = side.heads.known_from(head.first, most);
        if known == 0 {
            return Claim::HeadsLack(head);
        }
        let slots: Vec<Slot> = (0..known)
            .map_while(|_| session.try_take(self.group))
            .collect();
        let count = u32::try_from(slots.len()).unwrap_or(0);
        let fence = draft.fence();
        // Another group may have taken the room in the meantime: then it is the next one's turn.
        let Some(run) = draft.claim(class, count, &session.worker_id) else {
            return Claim::Some;
        };
        for (seq, slot) in (run.first..).zip(slots) {
            let Some(known) = side.heads.take(seq) else {
                continue;
            };
            side.held.insert(
                seq,
                Held {
                    slot: Some(slot),
                    known: known.clone(),
                },
            );
            self.effects.claimed.push(ClaimedTask {
                session: Arc::clone(session),
                known,
                fence,
                attempt: run.budgets.attempts + 1,
                enqueued: run.enqueued,
            });
        }
        Claim::Some
    }

    /// The lines in which something waits that one of the sessions serves.
    pub(super) fn candidates(
        &mut self,
        sessions: &[Arc<Session>],
        servings: &mut Servings,
        unknown: &mut Vec<(LaneId, Run, Class)>,
    ) -> Vec<Candidate> {
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
                let Some(run) = draft.peek(class) else {
                    continue;
                };
                // A line's names come with its heads.
                let Some(known) = side.heads.get(run.first) else {
                    unknown.push((*lane, run, class));
                    continue;
                };
                let Work {
                    queue, job_type, ..
                } = &*known.work;
                let sessions = servings.who(class, &queue.name, job_type, sessions);
                if !sessions.is_empty() {
                    candidates.push(Candidate {
                        lane: *lane,
                        class,
                        sessions,
                    });
                }
            }
        }
        candidates
    }

    /// The planned batch, lanes ascending.
    pub(super) fn seal(self) -> (Batch, Effects) {
        let mut batch = self.batch;
        let id = uuid::Uuid::new_v4().as_u128();
        let drafts = self.drafts.into_values().filter(|draft| !draft.is_empty());
        batch.rows = drafts.map(|draft| draft.seal(id)).collect();
        (batch, self.effects)
    }
}

enum Claim {
    Some,
    LineEmpty,
    HeadsLack(Run),
}

/// The first of the sessions that has room, beginning at another one each turn.
fn turn_of<'s>(
    sessions: &'s [Arc<Session>],
    places: &[usize],
    begin: usize,
    group: usize,
) -> Option<&'s Arc<Session>> {
    let turns = (0..places.len()).map(|step| places[begin.wrapping_add(step) % places.len()]);
    turns
        .map(|place| &sessions[place])
        .find(|session| session.free(group) > 0)
}

fn outcome_of(
    known: &Known,
    report: &Report,
    running: &Running,
    (decision, ending): (Decision, Ending),
    at: Micros,
) -> Outcome {
    let [dispatch_us, run_us, report_us] = phases(report, at.0 - running.claimed.0);
    let (error_class, error_message) = report.error.clone().unzip();
    let (output, output_type) = report.output.clone().unzip();
    Outcome {
        lane: known.id.lane(),
        seq: known.id.seq(),
        home: running.home,
        fence: report.fence,
        tenant: running.class.tenant,
        queue: running.class.queue,
        attempt: running.budgets.attempts + 1,
        result: report.result,
        state: match decision.verdict {
            Verdict::Close(state) => state.into(),
            Verdict::RetryAfter(_) => ExecutionState::Retrying,
            Verdict::Requeue => ExecutionState::Queued,
        },
        reason: decision.reason,
        budgets: decision.budgets,
        worker: Arc::clone(&running.worker),
        claimed: running.claimed,
        queued_us: (running.claimed.0 - running.enqueued.0).max(0),
        dispatch_us,
        run_us,
        report_us,
        next_at: match ending {
            Ending::Retried { due, .. } => Some(due),
            Ending::Closed | Ending::Requeued => None,
        },
        error_class,
        error_message,
        output,
        output_type: output_type.filter(|text| !text.is_empty()),
        trace_kept: known.work.is_sampled(),
    }
}

/// Claimed to begun, run time, end to recorded: three phases that sum to the time since the claim. The
/// worker's clock says how long its parts took; what remains is the way there and back, half each.
fn phases(report: &Report, since_claim: i64) -> [i64; 3] {
    let since_claim = since_claim.max(0);
    if report.result == AttemptResult::Lost {
        // Nobody knows what it did; all that time a report was waited for.
        return [0, 0, since_claim];
    }
    let bounded = |us: u64, room: i64| i64::try_from(us).unwrap_or(i64::MAX).min(room);
    let run = bounded(report.ran_us, since_claim);
    let waited = bounded(report.waited_us, since_claim - run);
    let held = bounded(report.held_us, since_claim - run - waited);
    let ways = since_claim - run - waited - held;
    [waited + ways / 2, run, held + ways - ways / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_sum_to_the_time_since_the_claim_whatever_the_worker_says() {
        let id = ExecutionId::from_bytes([0; 16]);
        for (waited_us, ran_us, held_us) in [(0, 0, 0), (5, 900, 3), (u64::MAX, 7, u64::MAX)] {
            let (fence, permanent, error, output) = (1, false, None, None);
            let result = AttemptResult::Success;
            let report = Report {
                id,
                fence,
                result,
                permanent,
                error,
                output,
                waited_us,
                ran_us,
                held_us,
            };
            for since_claim in [-5, 0, 1, 1_000, 1_000_000] {
                let phases = phases(&report, since_claim);
                assert_eq!(phases.iter().sum::<i64>(), since_claim.max(0));
                assert!(phases.iter().all(|phase| *phase >= 0), "{phases:?}");
            }
        }
    }
}
