//! A batch from its plan to its effects: plan → commit → apply, and only then is anybody told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::lane::{Class, DueMark, Lane, Run, TimedEntry};
use domain::{LaneId, Micros};
use rustc_hash::FxHashMap;
use store::{Batch, Error, WindowMap, within};

use super::actor::Group;
use super::input::{Input, NotTaken};
use super::intake::Pending;
use super::plan::{Effects, Planner, Verdicts};
use crate::dispatch::Turns;
use crate::lifecycle;

/// Due entries that one read takes.
const DUE_PAGE: usize = 10_000;
/// Heads that one read takes.
const HEADS_PAGE: u32 = 1_000;
/// Payloads that one read takes, in bytes.
const HEADS_PAGE_BYTES: u64 = 4 << 20;
/// How long a commit may take before its connection is given up: longer than the database's own limit on
/// a statement, for when the database can't be heard at all.
const COMMIT_LIMIT: Duration = Duration::from_secs(12);

impl Group {
    /// Plans, commits and applies one batch. Says whether there is more to do at once.
    pub(super) async fn step(&mut self, pending: Pending) -> bool {
        if self.lanes.is_empty() || self.shared.deadline.has_passed() {
            refuse(pending, NotTaken::NotOwner);
            return false;
        }
        let windows = Arc::clone(&self.shared.windows.borrow());
        let at = self.shared.clock.now();
        if !windows.covers(at.hour()) {
            tracing::warn!(
                event = "no_window",
                hour = at.hour().0,
                "no leader has made windows"
            );
            refuse(pending, |_| NotTaken::NotNow);
            return false;
        }
        let reads = match self.read_due(&windows, at).await {
            Ok(reads) => reads,
            Err(error) => {
                self.note_database_error(&error);
                refuse(pending, |_| NotTaken::NotNow);
                return false;
            }
        };
        let came = pending.len();
        let (batch, effects) = self.plan(at, pending, reads, &windows);
        let more = came > 0 || !effects.claimed.is_empty();
        if !batch.rows.is_empty() {
            let begin = SystemTime::now();
            if let Err(error) = within(COMMIT_LIMIT, self.writer.commit(&windows, &batch)).await {
                self.abandon(&batch, effects, &error);
                return false;
            }
            self.apply(&batch, &effects, begin);
        }
        self.tell(effects);
        more
    }

    /// Reads on in the lanes' due entries where less than half the horizon is left. Between two commits of
    /// this lane's only writer: what is read is all there is.
    async fn read_due(
        &mut self,
        windows: &WindowMap,
        at: Micros,
    ) -> Result<Vec<(LaneId, DueMark, Vec<TimedEntry>)>, Error> {
        let horizon = self.shared.due_horizon;
        let half = at.plus(horizon / 2);
        let behind = |lane: &&Lane| lane.due_read().due < half;
        let lanes: Vec<(LaneId, DueMark)> = self
            .lanes
            .values()
            .filter(behind)
            .map(|lane| (lane.id(), lane.due_read()))
            .collect();
        let mut reads = Vec::new();
        for (lane, after) in lanes {
            let mut mark = DueMark {
                due: at.plus(horizon),
                seq: u64::MAX >> 1,
            };
            let timer = self.shared.metrics.polling.start_timer();
            let entries = within(
                COMMIT_LIMIT,
                self.writer
                    .due_entries(windows, lane, (after, mark), DUE_PAGE),
            )
            .await?;
            timer.observe_duration();
            if let Some(last) = entries.last().filter(|_| entries.len() >= DUE_PAGE) {
                mark = last.mark;
            }
            reads.push((lane, mark, entries));
        }
        Ok(reads)
    }

    fn plan(
        &mut self,
        at: Micros,
        pending: Pending,
        reads: Vec<(LaneId, DueMark, Vec<TimedEntry>)>,
        windows: &Arc<WindowMap>,
    ) -> (Batch, Effects) {
        let shared = Arc::clone(&self.shared);
        let mut planner = Planner {
            at,
            id_key: &shared.id_key,
            group: self.place,
            lanes: &self.lanes,
            sides: &mut self.sides,
            drafts: BTreeMap::new(),
            batch: Batch::default(),
            effects: Effects::default(),
        };
        planner.read_due(reads);
        for (session, reports) in pending.reports {
            planner.end(session.as_ref(), reports);
        }
        planner.promote();
        planner.accept(pending.submits);
        let sessions = shared.sessions.connected();
        let mut lacking = Vec::new();
        if !sessions.is_empty() {
            let candidates = planner.candidates(&sessions, &mut self.servings, &mut lacking);
            let mut turns = Turns::new(&mut self.round, candidates);
            lacking.extend(planner.claim(&sessions, &mut turns));
        }
        let planned = planner.seal();
        for (lane, run, class) in lacking {
            self.load_heads(windows, lane, run, class);
        }
        planned
    }

    /// Reads the heads at the front of a line, beside the group's work.
    fn load_heads(&mut self, windows: &Arc<WindowMap>, lane: LaneId, run: Run, class: Class) {
        let Some(side) = self.sides.get_mut(&lane) else {
            return;
        };
        if !side.loading.insert(class) {
            return;
        }
        let (shared, windows, own) = (
            Arc::clone(&self.shared),
            Arc::clone(windows),
            self.own.clone(),
        );
        let seqs: Vec<u64> = (run.first..)
            .take(run.count.min(HEADS_PAGE) as usize)
            .collect();
        tokio::spawn(async move {
            let heads = shared
                .known(&windows, lane, run.home, (&seqs, HEADS_PAGE_BYTES))
                .await;
            let heads = heads.unwrap_or_else(|error| {
                tracing::warn!(partition = lane.0, %error, "heads can't be read; trying again");
                Vec::new()
            });
            if heads.is_empty() {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            let _ = own.send(Input::Heads(lane, class, heads)).await;
        });
    }

    fn apply(&mut self, batch: &Batch, effects: &Effects, begin: SystemTime) {
        for row in &batch.rows {
            let Some(lane) = self.lanes.get_mut(&row.lane) else {
                continue;
            };
            if let Err(error) = lane.apply(row) {
                tracing::error!(event = "lane_inconsistent", partition = row.lane.0, %error,
                    "memory and chain disagree: the lane is read anew");
                self.drop_lanes(vec![row.lane]);
            }
        }
        if let Some(row) = batch.rows.first() {
            lifecycle::tell(&self.shared, effects, row.at, begin);
        }
    }

    /// The batch failed, or nobody knows whether it did: what memory says of its lanes is not to be
    /// relied on any more. They are dropped, and taken over again if their leases still hold; the
    /// take-over waits for whatever is still under way in the database.
    fn abandon(&mut self, batch: &Batch, effects: Effects, error: &Error) {
        self.note_database_error(error);
        let lanes: Vec<LaneId> = batch.rows.iter().map(|row| row.lane).collect();
        tracing::warn!(event = "commit_failed", lanes = lanes.len(), %error,
            "a batch was not committed, or its answer is lost: its lanes are read anew");
        let refusal = match error {
            Error::Deposed { .. } | Error::NoWindow { .. } => NotTaken::NotNow,
            _ => NotTaken::InDoubt,
        };
        for (reply, verdicts) in effects.replies {
            let refused = |verdict: Result<_, NotTaken>| verdict.and(Err(refusal.clone()));
            let _ = reply.send(verdicts.into_iter().map(refused).collect::<Verdicts>());
        }
        if !matches!(error, Error::Deposed { .. } | Error::NoWindow { .. }) {
            self.unsent.extend(
                effects
                    .claimed
                    .iter()
                    .map(|task| (task.known.id, task.fence)),
            );
        }
        self.drop_lanes(lanes);
    }

    /// Forgets lanes whose memory is of no use, and asks for them to be taken over again.
    fn drop_lanes(&mut self, lanes: Vec<LaneId>) {
        for lane in &lanes {
            self.forget(*lane);
        }
        let _ = self.dropped.send(lanes);
    }

    fn note_database_error(&self, error: &Error) {
        if matches!(error, Error::Database { .. } | Error::Silent { .. }) {
            self.shared.metrics.db_errors.inc();
        }
    }

    /// Tells everybody what the committed batch means for them.
    fn tell(&mut self, effects: Effects) {
        for (reply, verdicts) in effects.replies {
            let _ = reply.send(verdicts);
        }
        super::tasks::dispatch(&self.shared.scheduler_id, &effects.claimed);
        super::tasks::settle(effects.settlements);
        if !self.watchers.is_empty() {
            super::tasks::notify(&mut self.watchers, &effects.claimed, &effects.ended);
        }
        let at = self.shared.clock.now();
        self.lines.accepted(&effects.accepted);
        self.lines.promoted(&effects.promoted);
        self.lines.claimed(&effects.claimed, at);
        self.lines.ended(&effects.ended, at);
        let log = &mut self.log_budget;
        effects
            .accepted
            .iter()
            .for_each(|(known, _)| log.submitted(known));
        effects
            .claimed
            .iter()
            .for_each(|task| log.dispatched(task, at));
        effects.ended.iter().for_each(|ended| log.ended(ended));
    }
}

/// Answers what can't be planned just now. Results get no answer: their workers send them again.
fn refuse(pending: Pending, why: impl Fn(LaneId) -> NotTaken) {
    for submit in pending.submits {
        let verdicts = submit
            .items
            .iter()
            .map(|item| Err(why(item.lane)))
            .collect();
        let _ = submit.reply.send(verdicts);
    }
}

impl crate::shared::Shared {
    /// What is known of executions of a lane and home hour, read from their rows.
    pub(crate) async fn known(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: domain::Hour,
        (seqs, bytes): (&[u64], u64),
    ) -> Result<Vec<(u64, crate::shared::Known)>, Error> {
        let mut known = Vec::with_capacity(seqs.len());
        for (seq, head) in self
            .database
            .heads(windows, lane, home, (seqs, bytes))
            .await?
        {
            let id = domain::ExecutionId::new(lane, seq, head.accepted, &self.id_key);
            let work = Arc::new(self.work_of(head).await?);
            known.push((seq, crate::shared::Known { id, work }));
        }
        Ok(known)
    }

    /// What is known of everything that runs in a lane.
    pub(crate) async fn known_running(
        &self,
        windows: &WindowMap,
        lane: &Lane,
    ) -> Result<FxHashMap<u64, crate::shared::Known>, Error> {
        let mut by_home: BTreeMap<domain::Hour, Vec<u64>> = BTreeMap::new();
        for (seq, running) in lane.running() {
            by_home.entry(running.home).or_default().push(*seq);
        }
        let mut known = FxHashMap::default();
        for (home, mut seqs) in by_home {
            while !seqs.is_empty() {
                let page = self
                    .known(windows, lane.id(), home, (&seqs, HEADS_PAGE_BYTES))
                    .await?;
                if page.is_empty() {
                    break;
                }
                known.extend(page);
                seqs.retain(|seq| !known.contains_key(seq));
            }
        }
        match known.len() == lane.running().len() {
            true => Ok(known),
            false => Err(Error::Inconsistent {
                table: "execution",
                what: format!("lane {}: running executions lack their rows", lane.id()),
            }),
        }
    }
}
