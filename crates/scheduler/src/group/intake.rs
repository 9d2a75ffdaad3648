//! What a group does with its inputs at once, and what it keeps for the next batch.

use std::sync::Arc;
use std::time::Duration;

use domain::lane::{Lane, Running};
use domain::{AttemptResult, Items, LaneId};
use proto::v1::{Settlement, SettlementVerdict, Settlements, work_response};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::{BATCH, Group};
use super::input::{
    Adopted, Cancel, HeldTask, Holding, Incoming, Input, Report, Revise, SaidHeld, SentCheckpoint,
    Submit, Watched,
};
use super::memory::InMemory;
use super::side::Side;
use crate::session::{Session, Slot};

/// How long a worker has to answer a cancellation: longer than it gives a handler to stop.
const CANCEL_PATIENCE: Duration = Duration::from_secs(20);

/// What waits for the next batch.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) submits: Vec<Submit>,
    pub(super) cancels: Vec<Cancel>,
    pub(super) revisions: Vec<Revise>,
    pub(super) reports: Vec<(Option<Arc<Session>>, Vec<Report>)>,
    pub(super) checkpoints: Vec<(Arc<Session>, Vec<SentCheckpoint>)>,
    /// How much that is. What was read of a line counts as well: it can be claimed by the batch after that one.
    len: usize,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A large payload counts for many: a batch of full size is at most 8 MiB and its last submission.
    fn submit(&mut self, submit: Submit) {
        let weight = |item: &Incoming| weight(&item.work.head.payload);
        self.len += submit.items.iter().map(weight).sum::<usize>();
        self.submits.push(submit);
    }

    fn cancel(&mut self, cancel: Cancel) {
        self.len += 1;
        self.cancels.push(cancel);
    }

    fn revise(&mut self, revise: Revise) {
        self.len += 1;
        self.revisions.push(revise);
    }

    pub(super) fn save(&mut self, session: Arc<Session>, sent: Vec<SentCheckpoint>) {
        self.len += sent.iter().map(|sent| weight(&sent.state)).sum::<usize>();
        self.checkpoints.push((session, sent));
    }

    /// Reports of a worker, or, without one, of attempts that were lost.
    fn report(&mut self, session: Option<Arc<Session>>, reports: Vec<Report>) {
        self.len += reports.len();
        self.reports.push((session, reports));
    }
}

/// What an item counts in a batch that brings so many bytes.
fn weight(bytes: &[u8]) -> usize {
    1 + bytes.len() / (8 << 10)
}

impl Group {
    pub(super) fn take_in(&mut self, input: Input, pending: &mut Pending) {
        match input {
            // Its caller's time is over, or it went away: nobody asks for it any more.
            Input::Submit(submit) if submit.reply.is_closed() => {}
            Input::Submit(submit) => pending.submit(submit),
            Input::Cancel(cancel) => pending.cancel(cancel),
            Input::Revise(revise) => pending.revise(revise),
            Input::Snapshot(lane, n, took) => self.note_snapshot(lane, n, took),
            Input::Carried(lane, window, carried) => {
                if let Some(side) = self.sides.get_mut(&lane) {
                    side.turning.note_carried(window, carried);
                }
            }
            Input::LetGo(facts) => self.note_let_go(&facts),
            Input::NotedLetGo(since, noted) => self.take_noted(since, &noted),
            Input::Reports(session, reports) => self.take_reports(session, reports, pending),
            Input::Checkpoints(session, sent) => self.take_checkpoints(session, sent, pending),
            Input::Progress(session, reports) => self.take_progress(&session, reports),
            Input::Holding(holding) => self.take_holding(holding, pending),
            Input::Adopt(adopted) => self.adopt(*adopted, pending),
            Input::Drop(lanes, done) => self.let_go(&lanes, done),
            Input::Heads(lane, class, heads) => self.take_heads(lane, class, heads),
            Input::Stored(read) => {
                self.take_stored(read);
                pending.len += 1;
            }
            Input::Ask(id, reply) => {
                let _ = reply.send(self.in_memory(id));
            }
            Input::ListOpen(list, lanes, reply) => {
                let _ = reply.send(self.list_open(&list, &lanes));
            }
            Input::Locate(sought, reply) => {
                let _ = reply.send(self.locate(&sought));
            }
            Input::Watch(id, watcher, reply) => {
                let there = self.in_memory(id);
                if there.is_some() {
                    let watchers = self.watchers.entry(id).or_default();
                    watchers.retain(|watcher| !watcher.is_closed());
                    watchers.push(watcher);
                }
                let _ = reply.send(there);
            }
        }
    }

    fn in_memory(&self, id: domain::ExecutionId) -> Option<InMemory> {
        if self.shared.deadline.has_passed() {
            return None;
        }
        let lane = self.lanes.get(&id.lane())?;
        let held = self.sides.get(&id.lane())?.held.get(&id.seq());
        let progress = held.and_then(|held| held.progress.as_deref());
        Some(InMemory::of(lane, id).with_progress(progress))
    }

    /// Keeps the reports that concern lanes of this group, and says of the others that they don't.
    fn take_reports(&mut self, session: Arc<Session>, reports: Vec<Report>, pending: &mut Pending) {
        let (own, foreign): (Vec<_>, Vec<_>) = reports
            .into_iter()
            .partition(|report| self.lanes.contains_key(&report.id.lane()));
        if !foreign.is_empty() {
            let verdict = SettlementVerdict::NotOwner;
            let settlements = foreign
                .iter()
                .map(|report| settlement(report.id, report.fence, verdict))
                .collect();
            session.send(work_response::Message::Settlements(Settlements {
                settlements,
            }));
        }
        if !own.is_empty() {
            pending.report(Some(session), own);
        }
    }

    fn adopt(&mut self, adopted: Adopted, pending: &mut Pending) {
        let id = adopted.lane.id();
        self.return_what_was_never_sent(&adopted, pending);
        tracing::info!(
            event = "lane_adopted",
            partition = id.0,
            epoch = adopted.lane.epoch(),
            waiting = adopted.lane.waiting().len(),
            running = adopted.lane.running().len(),
            "lane {id} is this scheduler's own"
        );
        let running = adopted.running.into_iter().map(|(seq, known)| {
            let running = adopted.lane.running().get(&seq);
            (
                seq,
                (known, running.is_some_and(|running| running.cancelled)),
            )
        });
        self.sides.insert(id, Side::new(running));
        self.lanes.insert(id, adopted.lane);
    }

    /// What this group claimed in a batch whose answer was lost never went out: it costs no budget.
    fn return_what_was_never_sent(&mut self, adopted: &Adopted, pending: &mut Pending) {
        let lane = adopted.lane.id();
        let unsent = self.unsent.extract_if(.., |(id, _)| id.lane() == lane);
        let running = |(id, fence): &HeldTask| {
            let running = adopted.lane.running().get(&id.seq());
            running.is_some_and(|running| running.fence == *fence)
        };
        let reports: Vec<Report> = unsent
            .filter(running)
            .map(|(id, fence)| Report::without_worker(id, fence, AttemptResult::Returned))
            .collect();
        if !reports.is_empty() {
            pending.report(None, reports);
        }
    }

    /// No commit is out while an input is taken in: from here on nothing is written.
    fn let_go(&mut self, lanes: &[LaneId], done: oneshot::Sender<()>) {
        for lane in lanes {
            self.forget(*lane);
        }
        let _ = done.send(());
    }

    pub(super) fn forget(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
        self.sides.remove(&lane);
        // Perhaps the database has lost what they name: they are looked up anew.
        self.recent_keys.clear();
        // Whoever watches there asks the new owner.
        self.watchers.retain(|id, watching| {
            let stays = id.lane() != lane;
            if !stays {
                watching
                    .iter()
                    .for_each(|watcher| drop(watcher.send(Watched::Moved(*id))));
            }
            stays
        });
    }

    /// Forgets who watches no more.
    pub(super) fn look_for_leavers(&mut self) {
        self.watchers.retain(|_, watching| {
            watching.retain(|watcher| !watcher.is_closed());
            !watching.is_empty()
        });
    }

    /// Sets the group's own picture of a worker right by what the worker says it holds.
    fn take_holding(&mut self, holding: Holding, pending: &mut Pending) {
        let Holding {
            session,
            held,
            complete,
            reply,
        } = holding;
        if self.shared.deadline.has_passed() {
            // Its lanes may be another's by now, whose claims it doesn't know: it is in no place to judge.
            let _ = reply.send(None);
            return;
        }
        let revoked = held
            .iter()
            .copied()
            .filter(|said| !self.confirm(&session, *said))
            .map(|said| said.task)
            .collect();
        if complete {
            self.return_what_never_arrived(&session, &held, pending);
        }
        let _ = reply.send(Some(revoked));
    }

    /// Whether the worker is right to hold a task; one of a lane elsewhere is for its owner to judge. What it said
    /// under another lease of the lane is from another time: it may have ended since.
    fn confirm(&mut self, session: &Arc<Session>, said: SaidHeld) -> bool {
        let (id, fence) = said.task;
        let lane = self.lanes.get(&id.lane());
        let is_timely =
            |lane: &&Lane| said.epoch == 0 || u64::try_from(lane.epoch()) == Ok(said.epoch);
        let Some(lane) = lane.filter(is_timely) else {
            return true;
        };
        let now = u64::try_from(self.shared.clock.now().0).unwrap_or(0);
        let side = self.sides.get(&id.lane());
        let settled = side.is_some_and(|side| side.adopted.elapsed() >= self.shared.worker_lease);
        if settled && fence > lane.link().n && fence <= now {
            // Somebody has written to the lane since: another owner, or this one in a database that lost it.
            tracing::warn!(
                event = "fence_from_beyond",
                partition = id.lane().0,
                fence,
                "a worker holds a fence that the chain doesn't know: the lane is read anew"
            );
            self.drop_lanes(vec![id.lane()]);
            return true;
        }
        let mine = |running: &Running| running.fence == fence && session.may_hold(running);
        if !lane.running().get(&id.seq()).is_some_and(mine) {
            return false;
        }
        let held = self
            .sides
            .get_mut(&id.lane())
            .and_then(|side| side.held.get_mut(&id.seq()));
        let Some(held) = held else { return false };
        let mine = |slot: &Slot| Arc::ptr_eq(slot.session(), session);
        if held.known.id != id {
            return false;
        }
        if !held.slot.as_ref().is_some_and(mine) {
            let suspect = lane
                .running()
                .get(&id.seq())
                .map(|running| running.class.suspect);
            let slot = session.take(self.place);
            held.slot = Some(slot.of_suspect(suspect.unwrap_or(false)));
        }
        if held.cancelled.is_some() {
            // The last owner may have died before it said so.
            super::tasks::stop_one(session, (id, fence));
        }
        true
    }

    fn return_what_never_arrived(
        &self,
        session: &Arc<Session>,
        held: &[SaidHeld],
        pending: &mut Pending,
    ) {
        let named: rustc_hash::FxHashSet<HeldTask> = held.iter().map(|said| said.task).collect();
        let mine = |slot: &Slot| Arc::ptr_eq(slot.session(), session);
        let reports = self.reports_of(AttemptResult::Returned, |held, task| {
            held.slot.as_ref().is_some_and(mine) && !named.contains(&task)
        });
        if !reports.is_empty() {
            pending.report(None, reports);
        }
    }

    /// Reports the attempts of workers whose leases have run out, those of a lane's last owner that nobody
    /// has claimed to hold for a whole lease, and those that were cancelled and whose workers don't answer.
    pub(super) fn look_for_losses(&self, pending: &mut Pending) {
        let unanswered = |since: Instant| since.elapsed() >= CANCEL_PATIENCE;
        let reports = self.reports_of(AttemptResult::Cancelled, |held, _| {
            held.cancelled.is_some_and(unanswered)
        });
        if !reports.is_empty() {
            pending.report(None, reports);
        }
        let reports = self.reports_of(AttemptResult::Lost, |held, (id, _)| {
            let session = held.slot.as_ref().map(Slot::session);
            let left = session.is_some_and(|session| session.has_left());
            let over = session.is_none_or(|session| session.is_over());
            left || (over && self.is_orphaned(id, session.is_some()))
        });
        if !reports.is_empty() {
            pending.report(None, reports);
        }
    }

    /// Whether nobody can have a right to an execution by what earlier owners of its lane answered. That lasts for a
    /// whole lease, whatever its worker has heard here: this scheduler may not have answered it for a while.
    ///
    /// While its worker has not said here that it holds it (`is_said`), this scheduler's own answers may have given it
    /// a right as well: a beat is answered before the word that follows it is heard, and a group whose commit hangs
    /// hears it late. No such right outlives the worker's session, nor two leases: the worker must have seen whose the
    /// lane is while it still had the old right, and sends its word before any further beat.
    fn is_orphaned(&self, id: domain::ExecutionId, is_said: bool) -> bool {
        let (lane, lease) = (id.lane(), self.shared.worker_lease);
        let Some(adopted) = self.sides.get(&lane).map(|side| side.adopted.elapsed()) else {
            return false;
        };
        let is_live = || {
            let running = self
                .lanes
                .get(&lane)
                .and_then(|lane| lane.running().get(&id.seq()));
            running.is_some_and(|running| self.shared.sessions.is_live(&running.worker))
        };
        adopted >= 2 * lease || (adopted >= lease && (is_said || !is_live()))
    }

    fn reports_of(
        &self,
        result: AttemptResult,
        concerns: impl Fn(&super::side::Held, HeldTask) -> bool,
    ) -> Vec<Report> {
        let mut reports = Vec::new();
        for (lane, side) in &self.sides {
            let Some(lane) = self.lanes.get(lane) else {
                continue;
            };
            for (seq, held) in &side.held {
                let Some(running) = lane.running().get(seq) else {
                    continue;
                };
                // The rest waits for the next look: a batch has its size.
                if reports.len() >= BATCH {
                    return reports;
                }
                if concerns(held, (held.known.id, running.fence)) {
                    reports.push(Report::without_worker(held.known.id, running.fence, result));
                }
            }
        }
        reports
    }
}

impl Report {
    /// A report that no worker makes.
    fn without_worker(id: domain::ExecutionId, fence: u64, result: AttemptResult) -> Self {
        let error = (result == AttemptResult::Lost).then(|| {
            let message = "the worker's lease ran out before it reported a result";
            ("worker_lost".to_owned(), message.to_owned())
        });
        let (waited_us, ran_us, held_us) = (0, 0, 0);
        Self {
            id,
            fence,
            result,
            permanent: false,
            put_off: None,
            error,
            output: None,
            waited_us,
            ran_us,
            held_us,
            items: Items::default(),
            progress: None,
        }
    }
}

pub(super) fn settlement(
    id: domain::ExecutionId,
    fence: u64,
    verdict: SettlementVerdict,
) -> Settlement {
    let execution_id = bytes::Bytes::copy_from_slice(id.as_bytes());
    Settlement {
        execution_id,
        fence,
        verdict: verdict.into(),
    }
}
