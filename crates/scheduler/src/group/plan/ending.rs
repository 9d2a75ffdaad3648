//! Attempts that end, and executions that somebody cancels.

use std::sync::Arc;

use bytes::Bytes;
use domain::lane::{DueMark, Ending, Running, TimedEntry, Wait};
use domain::{
    AttemptResult, Attempted, Budgets, Decision, ExecutionState, Items, Micros, Reason, Verdict,
};
use proto::v1::SettlementVerdict;
use store::{DueEntry, Outcome, Place};
use tokio::time::Instant;

use super::{CancelledNow, Ended, Planner};
use crate::group::input::{Cancel, CancelVerdict, Report};
use crate::group::intake::settlement;
use crate::group::side::Held;
use crate::session::Session;
use crate::shared::Known;

impl Planner<'_> {
    /// Cancels what somebody wants cancelled. Before the endings, so that an attempt which ends in this
    /// very batch knows of it.
    pub(in crate::group) fn cancel(&mut self, cancels: &[Cancel]) {
        for cancel in cancels {
            let verdict = self.cancel_one(cancel);
            self.effects.cancel_verdicts.push(verdict);
        }
    }

    fn cancel_one(&mut self, cancel: &Cancel) -> CancelVerdict {
        let id = cancel.known.id;
        let (at, entry) = (self.at, cancel.entry);
        let Some(draft) = self.draft(id.lane()) else {
            return CancelVerdict::NotNow;
        };
        let running = draft.lane().running().get(&id.seq());
        if running.is_some() && draft.is_cancelled(id.seq()) {
            return CancelVerdict::Told;
        }
        let fence = draft.fence();
        match draft.cancel(entry, cancel.rows) {
            Err(_) => CancelVerdict::Moved,
            Ok(true) => {
                let outcome = cancelled_outcome(&cancel.known, entry, fence, at);
                let place = self.place(id.lane(), entry.home);
                self.batch.outcomes.push(Outcome { place, ..outcome });
                self.effects.cancelled.push(CancelledNow::Over {
                    known: cancel.known.clone(),
                    attempt: entry.budgets.attempts,
                    fence,
                });
                CancelVerdict::Over
            }
            Ok(false) => {
                self.tell_worker_of(id);
                CancelVerdict::Told
            }
        }
    }

    fn tell_worker_of(&mut self, id: domain::ExecutionId) {
        let held = self.sides.get_mut(&id.lane());
        let held = held.and_then(|side| side.held.get_mut(&id.seq()));
        let (Some(held), Some(lane)) = (held, self.lanes.get(&id.lane())) else {
            return;
        };
        held.cancelled = Some(Instant::now());
        let fence = lane.running().get(&id.seq()).map(|running| running.fence);
        if let (Some(slot), Some(fence)) = (&held.slot, fence) {
            let session = Arc::clone(slot.session());
            self.effects
                .cancelled
                .push(CancelledNow::Told { session, id, fence });
        }
    }

    /// Attempts that ended, and what that makes of their executions.
    pub(in crate::group) fn end(&mut self, session: Option<&Arc<Session>>, reports: &[Report]) {
        for report in reports {
            let verdict = self.end_one(session, report);
            if let Some(session) = session {
                let settlement = settlement(report.id, report.fence, verdict);
                self.effects
                    .settlements
                    .push((Arc::clone(session), settlement));
            }
        }
    }

    /// A result counts if its lane is here, the fence is that of the running attempt, and it comes from the
    /// worker that the attempt was claimed for.
    fn end_one(&mut self, session: Option<&Arc<Session>>, report: &Report) -> SettlementVerdict {
        let (lane, seq) = (report.id.lane(), report.id.seq());
        let Some(draft) = self.draft(lane) else {
            return SettlementVerdict::NotOwner;
        };
        let Ok(running) = draft.running(seq, report.fence) else {
            return SettlementVerdict::Stale;
        };
        let Some(held) = self.take_held(session, report, running) else {
            return SettlementVerdict::Stale;
        };
        let decision = self.decide(report, running, &held.known);
        let ended = self
            .draft(lane)
            .map(|draft| draft.end(seq, report.fence, &decision));
        let Some(Ok(ending)) = ended else {
            return SettlementVerdict::Stale;
        };
        self.note_end(held, report, running, (decision, ending));
        SettlementVerdict::Recorded
    }

    fn decide(&mut self, report: &Report, running: &Running, known: &Known) -> Decision {
        let attempted = Attempted {
            result: report.result,
            permanent: report.permanent,
            put_off: report.put_off,
            left: known.left(self.at),
        };
        let draw = rand::Rng::random(self.chance);
        let decision = domain::decide(attempted, running.budgets, &known.work.policy, draw);
        let draft = self.drafts.get(&report.id.lane());
        match draft.is_some_and(|draft| draft.is_cancelled(report.id.seq())) {
            true => decision.after_cancel(),
            false => decision,
        }
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
        side.held.remove(&seq)
    }

    fn note_end(
        &mut self,
        held: Held,
        report: &Report,
        running: &Running,
        (decision, ending): (Decision, Ending),
    ) {
        let Held {
            slot,
            known,
            progress,
            ..
        } = held;
        let session = slot.as_ref().map(|slot| Arc::clone(slot.session()));
        drop(slot);
        let id = known.id;
        if let Ending::Retried {
            due,
            to_table: true,
        } = ending
        {
            let mark = DueMark { due, seq: id.seq() };
            let (home, budgets) = (running.home, decision.budgets);
            let class = running.class.after(budgets);
            let wait = Wait::Retrying;
            let entry = TimedEntry {
                mark,
                class,
                home,
                budgets,
                wait,
            };
            // No back-off is longer than windows reach.
            let (lane, place) = (id.lane(), Place::Window);
            self.batch.due.push(DueEntry { lane, entry, place });
        }
        let goes_on = ending != Ending::Closed;
        let place = self.place(id.lane(), running.home);
        let mut outcome = outcome_of(&known, report, running, (decision, ending), self.at);
        // Of one whose worker can't say any more, what it said before.
        outcome.progress = report
            .progress
            .clone()
            .or(progress.map(|progress| *progress));
        self.effects.ended.push(Ended {
            class: running.class,
            fence: report.fence,
            attempt: outcome.attempt,
            worker: Arc::clone(&running.worker),
            session,
            result: report.result,
            decision,
            state: outcome.state,
            run_us: outcome.run_us,
            start_us: outcome.queued_us + outcome.dispatch_us,
            error: report.error.clone(),
            items: report.items,
            known: known.clone(),
        });
        self.batch.outcomes.push(Outcome { place, ..outcome });
        if goes_on {
            self.remember_again(known);
        }
    }
}

/// The outcome of an execution that was cancelled while nobody ran it.
fn cancelled_outcome(known: &Known, entry: TimedEntry, fence: u64, at: Micros) -> Outcome {
    Outcome {
        home: entry.home,
        attempt: entry.budgets.attempts,
        result: Some(AttemptResult::Cancelled),
        state: ExecutionState::Cancelled,
        reason: Reason::Cancelled,
        budgets: entry.budgets,
        ..without_attempt(known, fence, at)
    }
}

/// The outcome of an execution that nobody ran: what somebody did to it.
pub(super) fn without_attempt(known: &Known, fence: u64, at: Micros) -> Outcome {
    let class = known.work.class();
    Outcome {
        lane: known.id.lane(),
        seq: known.id.seq(),
        home: known.id.home(),
        fence,
        tenant: class.tenant,
        queue: class.queue,
        attempt: 0,
        result: None,
        state: ExecutionState::Queued,
        reason: Reason::None,
        budgets: Budgets::default(),
        worker: Arc::from(""),
        claimed: at,
        queued_us: 0,
        dispatch_us: 0,
        run_us: 0,
        report_us: 0,
        next_at: None,
        error_class: None,
        error_message: None,
        output: None,
        output_type: None,
        trace_kept: known.work.is_sampled(),
        items: Items::default(),
        progress: None,
        place: Place::Window,
    }
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
    let (output, output_type): (Option<Bytes>, Option<String>) = report.output.clone().unzip();
    Outcome {
        lane: known.id.lane(),
        seq: known.id.seq(),
        home: running.home,
        fence: report.fence,
        tenant: running.class.tenant,
        queue: running.class.queue,
        attempt: running.budgets.attempts + 1,
        result: Some(report.result),
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
        items: report.items,
        progress: None,
        place: Place::Window,
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
    use domain::ExecutionId;

    #[test]
    fn the_phases_sum_to_the_time_since_the_claim_whatever_the_worker_says() {
        let id = ExecutionId::from_bytes([0; 16]);
        for (waited_us, ran_us, held_us) in [(0, 0, 0), (5, 900, 3), (u64::MAX, 7, u64::MAX)] {
            let (fence, permanent, put_off, error, output) = (1, false, None, None, None);
            let result = AttemptResult::Success;
            let report = Report {
                id,
                fence,
                result,
                permanent,
                put_off,
                error,
                output,
                waited_us,
                ran_us,
                held_us,
                items: Items::default(),
                progress: None,
            };
            for since_claim in [-5, 0, 1, 1_000, 1_000_000] {
                let phases = phases(&report, since_claim);
                assert_eq!(phases.iter().sum::<i64>(), since_claim.max(0));
                assert!(phases.iter().all(|phase| *phase >= 0), "{phases:?}");
            }
        }
    }
}
