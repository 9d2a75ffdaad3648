//! A batch from its plan to its effects: plan → commit → apply, and only then is anybody told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::lane::Row;
use domain::{LaneId, Micros};
use rustc_hash::FxHashMap;
use store::{Batch, Error, KnownKey, WindowMap, within};

use super::actor::Group;
use super::depth::{Depths, Limits};
use super::doubt::Fate;
use super::input::{CancelVerdict, NotTaken, RevisedVerdict};
use super::intake::Pending;
use super::keys::Named;
use super::plan::{CancelledNow, Effects, Planner};
use super::reads::Reads;
use crate::turns::Turns;
use crate::{lifecycle, posting};

/// How long a commit may take before its connection is given up: longer than the database's own limit on
/// a statement, for when the database can't be heard at all.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(12);
/// How often a batch is planned anew, at most, before its callers are told to come again.
const TRIES: usize = 8;

/// What a group's step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// There may be more to do at once.
    More,
    /// There is nothing to do until something comes.
    Done,
    /// It can't write just now.
    HeldUp,
}

impl Group {
    /// Makes a batch of what is there.
    pub(super) async fn step(&mut self, pending: Pending) -> Step {
        match self.can_tell_duplicates(&pending).await {
            true => self.work_off(pending).await,
            false => {
                pending.refuse(|_| NotTaken::NotNow);
                Step::HeldUp
            }
        }
    }

    /// Plans, commits and applies one batch.
    async fn work_off(&mut self, mut pending: Pending) -> Step {
        let mut are_keys_known = false;
        for _ in 0..TRIES {
            if self.lanes.is_empty() || self.shared.deadline.has_passed() {
                pending.refuse(NotTaken::NotOwner);
                return Step::HeldUp;
            }
            let windows = Arc::clone(&self.shared.windows.borrow());
            let at = self.shared.clock.now();
            let Some(reads) = self.prepare(&windows, at, &pending).await else {
                pending.refuse(|_| NotTaken::NotNow);
                return Step::HeldUp;
            };
            let (batch, effects) = self.plan((at, &windows), &pending, reads);
            // No commit of its own tells whether the database still has what memory knows of the keys.
            if batch.rows.is_empty() && pending.has_keys() && !are_keys_known {
                are_keys_known = self.look_up_all_keys(&pending).await;
                if are_keys_known {
                    continue;
                }
                pending.refuse(|_| NotTaken::NotNow);
                return Step::HeldUp;
            }
            let begin = SystemTime::now();
            match self.commit(&windows, &batch).await {
                Fate::Committed => {
                    let more = pending.len() > 0 || !effects.claimed.is_empty();
                    self.apply(&batch, &effects, begin);
                    self.tell(pending, effects);
                    return if more { Step::More } else { Step::Done };
                }
                Fate::Never => effects.undo(&mut self.sides, self.place),
                Fate::KeyTaken => {
                    effects.undo(&mut self.sides, self.place);
                    self.look_up_keys(&pending).await;
                }
                Fate::Blocked => {
                    effects.undo(&mut self.sides, self.place);
                    self.set_keys_aside(&mut pending);
                }
                Fate::Deposed => {
                    self.abandon(&batch, effects);
                    pending.refuse(|_| NotTaken::NotNow);
                    return Step::HeldUp;
                }
                Fate::Unknown => {
                    self.remember_unsent(&effects);
                    self.abandon(&batch, effects);
                    pending.refuse(|_| NotTaken::InDoubt);
                    return Step::HeldUp;
                }
            }
        }
        pending.refuse(|_| NotTaken::NotNow);
        Step::HeldUp
    }

    /// Reads what a batch at `at` needs; nothing if none can be planned now.
    async fn prepare(
        &mut self,
        windows: &WindowMap,
        at: Micros,
        pending: &Pending,
    ) -> Option<Reads> {
        if !windows.covers(at.hour()) {
            let hour = at.hour().0;
            if self.windowless.is_news("no window") {
                tracing::warn!(event = "no_window", hour, "no leader has made windows");
            }
            return None;
        }
        self.windowless.end();
        if !self.move_chains_on(windows, at).await {
            return None;
        }
        let reads = self.read(windows, at, &pending.revisions).await;
        reads
            .inspect_err(|error| self.note_database_error(error))
            .ok()
    }

    /// Commits a batch and finds out what became of it.
    pub(super) async fn commit(&mut self, windows: &WindowMap, batch: &Batch) -> Fate {
        if batch.rows.is_empty() {
            return Fate::Committed;
        }
        let Some(term) = self.shared.deadline.term() else {
            return Fate::Never;
        };
        let Err(error) = within(COMMIT_LIMIT, self.writer.commit(windows, batch)).await else {
            return Fate::Committed;
        };
        self.note_database_error(&error);
        match error {
            Error::KeyTaken { .. } => Fate::KeyTaken,
            Error::Blocked { .. } if !batch.keys.is_empty() => Fate::Blocked,
            Error::Deposed { .. } | Error::NoWindow { .. } => {
                tracing::warn!(event = "commit_refused", lanes = batch.rows.len(), %error,
                    "a batch was refused: its lanes are read anew");
                Fate::Deposed
            }
            error => {
                tracing::warn!(event = "commit_in_doubt", lanes = batch.rows.len(), %error,
                    "a commit failed or its answer is lost: finding out which");
                self.settle(windows, batch, term).await
            }
        }
    }

    fn plan(
        &mut self,
        (at, windows): (Micros, &Arc<WindowMap>),
        pending: &Pending,
        reads: Reads,
    ) -> (Batch, Effects) {
        let ends = reads.ends;
        self.look_at_stored(windows);
        let shared = Arc::clone(&self.shared);
        let options = shared.catalog.options();
        let mut planner = Planner {
            at,
            options: &options,
            id_key: &shared.id_key,
            chance: &mut self.chance,
            group: self.place,
            lanes: &self.lanes,
            sides: &mut self.sides,
            full_from: self.room.full_from(),
            known_keys: &self.recent_keys,
            new_keys: FxHashMap::default(),
            depths: Depths::default(),
            drafts: BTreeMap::new(),
            batch: Batch::default(),
            effects: Effects::default(),
        };
        planner.read_due(reads.due);
        planner.move_kept(reads.kept);
        planner.cancel(&pending.cancels);
        for (session, sent) in &pending.checkpoints {
            planner.save(session, sent);
        }
        for (session, reports) in &pending.reports {
            planner.end(session.as_ref(), reports);
        }
        planner.accept(&pending.submits);
        planner.receive(reads.inbox);
        planner.say_farewell();
        planner.promote();
        let sessions = shared.sessions.connected();
        let mut lacking = Vec::new();
        if !sessions.is_empty() {
            let candidates = planner.candidates(&sessions, &mut self.servings, &mut lacking);
            let is_strict = |queue| options.is_strict(queue);
            let mut turns = Turns::new(&mut self.turns, candidates, is_strict);
            lacking.extend(planner.claim(&sessions, &mut turns));
        }
        let misread = planner.recall();
        planner.revise(&pending.revisions, &ends);
        let planned = planner.seal();
        for (lane, class) in misread {
            self.read_again_later(lane, class);
        }
        for (lane, run, class) in lacking {
            self.load_heads(windows, lane, run, class);
        }
        planned
    }

    fn apply(&mut self, batch: &Batch, effects: &Effects, begin: SystemTime) {
        self.apply_rows(batch);
        self.sides
            .values_mut()
            .for_each(|side| side.turning.note_committed());
        for key in &batch.keys {
            let (fingerprint, id) = (key.fingerprint, key.id);
            self.recent_keys.insert(key.key, Named { fingerprint, id });
        }
        if let Some(row) = batch.rows.first() {
            lifecycle::tell(&self.shared, effects, row.at, begin);
        }
    }

    /// Applies the rows of a batch, and the one that was committed behind it.
    pub(super) fn apply_rows(&mut self, batch: &Batch) {
        for row in &batch.rows {
            self.apply_row(row);
        }
        if let Some(row) = self.after.take() {
            self.apply_row(&row);
        }
    }

    pub(super) fn apply_row(&mut self, row: &Row) {
        let Some(lane) = self.lanes.get_mut(&row.lane) else {
            return;
        };
        if let Some(side) = self.sides.get_mut(&row.lane) {
            side.snapshots.note(&row.delta);
        }
        let applied = lane.apply(row);
        #[cfg(test)]
        self.shared.testify(lane, &applied);
        if let Err(error) = applied {
            tracing::error!(event = "lane_inconsistent", partition = row.lane.0, %error,
                "memory and chain disagree: the lane is read anew");
            self.drop_lanes(vec![row.lane]);
        }
    }

    /// Somebody else writes to the lanes, or nobody knows what became of the batch: what memory says of
    /// them is not to be relied on any more. They are dropped, and taken over again if their leases still
    /// hold; the take-over waits for whatever is still under way in the database.
    fn abandon(&mut self, batch: &Batch, effects: Effects) {
        drop(effects);
        self.drop_lanes(batch.rows.iter().map(|row| row.lane).collect());
    }

    /// What was claimed in a batch that may have been committed never went out.
    fn remember_unsent(&mut self, effects: &Effects) {
        let tasks = effects.claimed.iter();
        self.unsent
            .extend(tasks.map(|task| (task.known.id, task.fence)));
    }

    /// What is over needs no head any more.
    fn forget_heads(&mut self, cancelled: &[CancelledNow]) {
        for cancelled in cancelled {
            if let CancelledNow::Over { known, .. } = cancelled
                && let Some(side) = self.sides.get_mut(&known.id.lane())
            {
                side.heads.take(known.id.seq());
            }
        }
    }

    /// Where a depth limit may refuse something, the idempotency keys are asked for first: a duplicate is
    /// answered like the first, however full its queue is.
    async fn can_tell_duplicates(&mut self, pending: &Pending) -> bool {
        let items = || pending.submits.iter().flat_map(|submit| &submit.items);
        let options = self.shared.catalog.options();
        let limits = Limits {
            lanes: &self.lanes,
            options: &options,
        };
        if items().all(|item| item.key.is_none()) || !limits.may_refuse(items()) {
            return true;
        }
        self.look_up_keys(pending).await
    }

    /// Asks which of a batch's idempotency keys are known that memory doesn't know, and what they name. Says
    /// whether there was an answer.
    async fn look_up_keys(&mut self, pending: &Pending) -> bool {
        let mut keys = pending.keys();
        keys.retain(|key| self.recent_keys.get(key).is_none());
        self.learn_keys(&keys).await
    }

    /// The same of all its keys, whatever memory knows of them.
    async fn look_up_all_keys(&mut self, pending: &Pending) -> bool {
        self.learn_keys(&pending.keys()).await
    }

    async fn learn_keys(&mut self, keys: &[[u8; 16]]) -> bool {
        match within(COMMIT_LIMIT, self.writer.known_keys(keys)).await {
            Ok(known) => {
                keys.iter().for_each(|key| self.recent_keys.remove(key));
                for KnownKey {
                    key,
                    fingerprint,
                    id,
                } in known
                {
                    self.recent_keys.insert(key, Named { fingerprint, id });
                }
                true
            }
            Err(error) => {
                self.note_database_error(&error);
                false
            }
        }
    }

    /// A foreign transaction holds some key of the batch: items that have one go through the inbox, on a
    /// connection of their own, so that nobody waits but whose key it is; those of the hasty come back by themselves.
    fn set_keys_aside(&self, pending: &mut Pending) {
        for submit in std::mem::take(&mut pending.submits) {
            let (rest, aside) = submit.without_keys();
            if aside.hasty {
                let verdicts = aside.items.iter().map(|_| Err(NotTaken::KeyHeld));
                let _ = aside.reply.send(verdicts.collect());
            } else if !aside.items.is_empty() {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    let verdicts = posting::post(&shared, aside.items, false).await;
                    let _ = aside.reply.send(verdicts);
                });
            }
            pending.submits.push(rest);
        }
    }

    /// Forgets lanes whose memory is of no use, and asks for them to be taken over again.
    pub(super) fn drop_lanes(&mut self, lanes: Vec<LaneId>) {
        for lane in &lanes {
            self.forget(*lane);
        }
        let _ = self.dropped.send(lanes);
    }

    pub(super) fn note_database_error(&self, error: &Error) {
        if matches!(error, Error::Database { .. } | Error::Silent { .. }) {
            self.shared.metrics.db_errors.inc();
        }
    }

    /// Tells everybody what the committed batch means for them.
    fn tell(&mut self, pending: Pending, mut effects: Effects) {
        let verdicts = std::mem::take(&mut effects.verdicts);
        for (submit, verdicts) in pending.submits.into_iter().zip(verdicts) {
            let _ = submit.reply.send(verdicts);
        }
        let verdicts = std::mem::take(&mut effects.cancel_verdicts);
        for (cancel, verdict) in pending.cancels.into_iter().zip(verdicts) {
            let _ = cancel.reply.send(verdict);
        }
        let verdicts = std::mem::take(&mut effects.revise_verdicts);
        for (revise, verdict) in pending.revisions.into_iter().zip(verdicts) {
            let _ = revise.reply.send(verdict);
        }
        super::tasks::dispatch(&self.shared.scheduler_id, &effects.claimed);
        super::tasks::stop(&effects.cancelled);
        super::tasks::answer(std::mem::take(&mut effects.answers));
        super::tasks::settle(std::mem::take(&mut effects.settlements));
        self.forget_heads(&effects.cancelled);
        if !self.watchers.is_empty() {
            super::tasks::notify(&mut self.watchers, &effects);
        }
        let at = self.shared.clock.now();
        self.lines.accepted(&effects.accepted);
        self.lines.received(&effects.received);
        self.lines.promoted(&effects.promoted);
        self.lines.cancelled(&effects.cancelled);
        self.lines.revised(&effects.revised);
        self.lines.claimed(&effects.claimed, at);
        self.lines.ended(&effects.ended, at);
        let log = &mut self.log_budget;
        let accepted = effects.accepted.iter();
        accepted.for_each(|(known, _)| log.submitted(known));
        let cancelled = effects.cancelled.iter();
        cancelled.for_each(|cancelled| log.cancelled(cancelled));
        let claimed = effects.claimed.iter();
        claimed.for_each(|task| log.dispatched(task, at));
        effects.ended.iter().for_each(|ended| log.ended(ended));
        effects
            .revised
            .iter()
            .for_each(|revised| log.revised(revised));
    }
}

impl Pending {
    fn has_keys(&self) -> bool {
        let mut items = self.submits.iter().flat_map(|submit| &submit.items);
        items.any(|item| item.key.is_some())
    }

    /// The idempotency keys of what is submitted.
    fn keys(&self) -> Vec<[u8; 16]> {
        let items = self.submits.iter().flat_map(|submit| &submit.items);
        items
            .filter_map(|item| item.key.map(|key| key.hash))
            .collect()
    }

    /// Answers what can't be planned just now. Results and checkpoints get no answer: their workers send them again.
    pub(super) fn refuse(self, why: impl Fn(LaneId) -> NotTaken) {
        for submit in self.submits {
            let verdicts = submit
                .items
                .iter()
                .map(|item| Err(why(item.lane)))
                .collect();
            let _ = submit.reply.send(verdicts);
        }
        for cancel in self.cancels {
            let _ = cancel.reply.send(CancelVerdict::NotNow);
        }
        for revise in self.revisions {
            let _ = revise.reply.send(RevisedVerdict::NotNow);
        }
    }
}
