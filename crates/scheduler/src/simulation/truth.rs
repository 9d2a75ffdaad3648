//! What really happened, noted beside the schedulers, and what must be true of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::lane::{CheckpointMark, Lane};
use domain::{ExecutionId, ExecutionState, Hour, LaneId};
use store::{ExecutionPlace, LastEnd, LastOutcome, Outcome, StoredAttempt, StoredExecution};
use tokio::time::Instant;

use super::database::Tables;
use super::replica::WORKER_LEASE;

/// How long a scheduler may take to notice that the database has lost changes, or to tell of what it did before:
/// it may be stopped for as long.
const UNNOTICED: Duration = Duration::from_secs(12);

/// One run of a handler.
struct Run {
    fence: u64,
    worker: String,
    begin: Instant,
    end: Option<Instant>,
}

/// What attempts of an execution saved, and what later ones went on from.
#[derive(Default)]
struct Checkpoints {
    sent: BTreeSet<CheckpointMark>,
    acknowledged: BTreeSet<CheckpointMark>,
    /// By fence.
    begun_with: BTreeMap<u64, Option<CheckpointMark>>,
}

impl Checkpoints {
    /// What an attempt went on from was sent by an earlier one, and no later one of these was acknowledged.
    fn check(&self, id: ExecutionId) -> Result<(), String> {
        for (fence, begun_with) in &self.begun_with {
            let earlier = |mark: &&CheckpointMark| mark.fence < *fence;
            let last = self.acknowledged.iter().rfind(earlier);
            let is_sent = begun_with.is_none_or(|mark| self.sent.contains(&mark));
            if *begun_with < last.copied()
                || !is_sent
                || begun_with.is_some_and(|m| m.fence >= *fence)
            {
                return Err(format!(
                    "{id} begins under {fence} with {begun_with:?}, acknowledged was {last:?}"
                ));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Notes {
    /// What was acknowledged, and the number of its submission.
    accepted: BTreeMap<ExecutionId, u64>,
    runs: BTreeMap<ExecutionId, Vec<Run>>,
    saved: BTreeMap<ExecutionId, Checkpoints>,
    /// Which submission an execution was ever given to.
    given: BTreeMap<ExecutionId, u64>,
    /// What the database lost, and when.
    lost: (BTreeSet<(LaneId, u64, Hour)>, Option<Instant>),
    /// What was said to be over by a cancellation.
    cancelled: BTreeSet<ExecutionId>,
    /// What somebody wanted to revise, and whether he was told that it is done.
    revised: BTreeMap<ExecutionId, bool>,
    wrong: Vec<String>,
}

/// The notes of clients and workers.
#[derive(Clone, Default)]
pub(super) struct Truth(Arc<Mutex<Notes>>);

impl Truth {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn accepted(&self, id: ExecutionId, number: u64) {
        let mut notes = self.notes();
        let (lost, since) = &notes.lost;
        let place = (id.lane(), id.seq(), id.home());
        if lost.contains(&place) && since.is_some_and(|since| since.elapsed() < UNNOTICED) {
            return;
        }
        notes.accepted.insert(id, number);
        if let Some(before) = notes.given.insert(id, number)
            && before != number
        {
            notes.wrong.push(format!(
                "{id} was given to submissions {before} and {number}"
            ));
        }
    }

    pub(super) fn some_accepted(&self, nth: usize) -> Option<ExecutionId> {
        let notes = self.notes();
        let count = notes.accepted.len().max(1);
        notes.accepted.keys().nth(nth % count).copied()
    }

    pub(super) fn some_unsuccessful(&self, tables: &Tables, nth: usize) -> Option<ExecutionId> {
        let notes = self.notes();
        let unsuccessful = |id: &&ExecutionId| {
            let last = outcomes(tables, (id.lane(), id.seq())).last().copied();
            last.is_some_and(|last| {
                last.state.is_final() && last.state != ExecutionState::Succeeded
            })
        };
        let all: Vec<_> = notes.accepted.keys().filter(unsuccessful).collect();
        all.get(nth % all.len().max(1)).copied().copied()
    }

    /// Of what somebody wants to run again nobody knows any more that it stays cancelled.
    pub(super) fn cancelled(&self, id: ExecutionId) {
        let mut notes = self.notes();
        if !notes.revised.contains_key(&id) {
            notes.cancelled.insert(id);
        }
    }

    /// Somebody is about to revise an execution.
    pub(super) fn revising(&self, id: ExecutionId) {
        let mut notes = self.notes();
        notes.cancelled.remove(&id);
        notes.revised.entry(id).or_default();
    }

    /// He was told that it is done.
    pub(super) fn revised(&self, id: ExecutionId) {
        self.notes().revised.insert(id, true);
    }

    /// A handler begins. No other may run for the same execution: leases end first with their holders.
    pub(super) fn begin(&self, id: ExecutionId, fence: u64, worker: &str) {
        let mut notes = self.notes();
        if notes.cancelled.contains(&id) {
            notes
                .wrong
                .push(format!("{id} begins after it was said to be cancelled"));
        }
        let again = notes
            .runs
            .get(&id)
            .into_iter()
            .flatten()
            .any(|run| run.fence == fence);
        if again {
            notes
                .wrong
                .push(format!("{id} begins twice under fence {fence}"));
        }
        drop(notes);
        self.resume(id, fence, worker);
    }

    /// A handler begins with what an earlier attempt saved.
    pub(super) fn begin_with(&self, id: ExecutionId, fence: u64, saved: Option<CheckpointMark>) {
        let mut notes = self.notes();
        let checkpoints = notes.saved.entry(id).or_default();
        checkpoints.begun_with.insert(fence, saved);
    }

    /// A handler saves something.
    pub(super) fn saves(&self, id: ExecutionId, mark: CheckpointMark) {
        self.notes().saved.entry(id).or_default().sent.insert(mark);
    }

    /// It is told that it, or something later of the same attempt, is saved.
    pub(super) fn saved(&self, id: ExecutionId, mark: CheckpointMark) {
        let mut notes = self.notes();
        // It may have been lost since with the database's last changes, or its row before it.
        let is_sure = notes
            .lost
            .1
            .is_none_or(|since| since.elapsed() >= UNNOTICED);
        if is_sure {
            let checkpoints = notes.saved.entry(id).or_default();
            checkpoints.acknowledged.insert(mark);
        }
    }

    /// How often something was acknowledged, and how often an attempt went on from something.
    pub(super) fn checkpoints(&self) -> (usize, usize) {
        let notes = self.notes();
        let all = notes.saved.values();
        all.fold((0, 0), |(acknowledged, resumed), one| {
            let went_on = one.begun_with.values().flatten().count();
            (acknowledged + one.acknowledged.len(), resumed + went_on)
        })
    }

    /// A handler runs, for the first time or again after its worker was stopped.
    pub(super) fn resume(&self, id: ExecutionId, fence: u64, worker: &str) {
        let mut notes = self.notes();
        let runs = notes.runs.entry(id).or_default();
        let others: Vec<String> = runs
            .iter()
            .filter(|run| run.end.is_none())
            .map(|run| format!("{} since {:?} (fence {})", run.worker, run.begin, run.fence))
            .collect();
        runs.push(Run {
            fence,
            worker: worker.to_owned(),
            begin: Instant::now(),
            end: None,
        });
        // What was handed out just before the database lost it may be handed out again.
        let since = notes.lost.1;
        let unsure = since.is_some_and(|since| since.elapsed() < UNNOTICED + WORKER_LEASE);
        for other in others.into_iter().filter(|_| !unsure) {
            let wrong = format!("{id} begins on {worker} (fence {fence}) and runs on {other}");
            notes.wrong.push(wrong);
        }
    }

    pub(super) fn end(&self, id: ExecutionId, fence: u64, worker: &str) {
        let mut notes = self.notes();
        let runs = notes.runs.entry(id).or_default();
        let mine = |run: &&mut Run| run.fence == fence && run.worker == worker && run.end.is_none();
        if let Some(run) = runs.iter_mut().find(mine) {
            run.end = Some(Instant::now());
        }
    }

    /// The database has lost its last changes: what was said since doesn't hold, and what runs may run again.
    pub(super) fn forgive(&self, before: &Tables, tables: &Tables) {
        let mut notes = self.notes();
        let Notes {
            accepted,
            cancelled,
            revised,
            runs,
            lost,
            saved,
            ..
        } = &mut *notes;
        // What was acknowledged may be gone, and fences may come that lie beyond what ran on unnoticed.
        saved.values_mut().for_each(|checkpoints| {
            checkpoints.acknowledged.clear();
            checkpoints.begun_with.clear();
        });
        let place = |id: &ExecutionId| (id.lane(), id.seq());
        let same = |id: &ExecutionId| {
            let row = tables.execution(place(id));
            row.is_some_and(|(home, _)| *home == id.home())
        };
        let gone = before.executions.iter();
        let gone = gone.filter(|(place, _)| tables.execution(**place).is_none());
        lost.0
            .extend(gone.map(|((lane, seq), (home, _))| (*lane, *seq, *home)));
        lost.1 = Some(Instant::now());
        accepted.retain(|id, _| same(id));
        cancelled.retain(|id| same(id) && is_over(tables, place(id)));
        revised.values_mut().for_each(|told| *told = false);
        let open = runs.values_mut().flatten().filter(|run| run.end.is_none());
        open.for_each(|run| run.end = Some(Instant::now()));
    }

    /// Whether everything that was acknowledged is over, or what is left.
    pub(super) fn unfinished(&self, tables: &Tables) -> Vec<ExecutionId> {
        let notes = self.notes();
        let open = |id: &&ExecutionId| !is_over(tables, (id.lane(), id.seq()));
        notes.accepted.keys().filter(open).copied().collect()
    }

    /// What is wrong at the end.
    pub(super) fn check(&self, tables: &Tables) -> Result<(), String> {
        let notes = self.notes();
        if let Some(wrong) = notes.wrong.first() {
            return Err(wrong.clone());
        }
        for id in notes.accepted.keys() {
            let place = (id.lane(), id.seq());
            if tables.execution(place).is_none() {
                return Err(format!("{id} was acknowledged and isn't there"));
            }
        }
        for id in &notes.cancelled {
            let rows = outcomes(tables, (id.lane(), id.seq()));
            let mut ends = rows.iter().filter(|row| row.state.is_final());
            if !ends.all(|end| end.state == ExecutionState::Cancelled) {
                return Err(format!("{id} was said to be cancelled, and is {rows:?}"));
            }
        }
        for id in notes
            .revised
            .iter()
            .filter_map(|(id, told)| told.then_some(id))
        {
            let rows = outcomes(tables, (id.lane(), id.seq()));
            if !rows.iter().any(|row| row.result.is_none()) {
                return Err(format!("{id} was said to be revised, and is {rows:?}"));
            }
        }
        for (id, checkpoints) in &notes.saved {
            checkpoints.check(*id)?;
        }
        check_rows(tables)?;
        check_submissions(tables)
    }
}

/// Every outcome is that of a claim, nothing ends twice, and what is over is in no lane.
fn check_rows(tables: &Tables) -> Result<(), String> {
    for place in tables
        .executions
        .keys()
        .chain(tables.gone.executions.keys())
    {
        check_lives(*place, &outcomes(tables, *place))?;
    }
    for ((lane, seq, fence), outcome) in tables.outcomes.iter().chain(&tables.gone.outcomes) {
        let place = (*lane, *fence);
        let row = tables.chain.get(&place).or(tables.gone.chain.get(&place));
        let claims = row.is_some_and(|row| {
            let claimed = &row.delta.claimed;
            claimed
                .iter()
                .any(|c| (c.first..c.first + u64::from(c.count)).contains(seq))
        });
        if !claims && !outcome.worker.is_empty() {
            return Err(format!(
                "the outcome of {lane}/{seq} under {fence} is of no claim"
            ));
        }
    }
    for lane in tables.replayed.values() {
        check_counters(lane);
        let open = (
            lane.waiting().len(),
            lane.running().len(),
            lane.timers().len(),
        );
        if open != (0, 0, 0) {
            let (id, running) = (lane.id(), lane.running());
            return Err(format!(
                "lane {id}: (waiting, running, timed) = {open:?}; {running:?}"
            ));
        }
        let executions = tables
            .executions
            .keys()
            .chain(tables.gone.executions.keys())
            .filter(|(id, _)| *id == lane.id())
            .count();
        let reopened = reopened(tables, lane.id());
        if lane.totals().submitted != (executions + reopened) as u64 {
            return Err(format!(
                "lane {}: {:?}, {executions} rows, {reopened} run again",
                lane.id(),
                lane.totals()
            ));
        }
    }
    Ok(())
}

impl Tables {
    /// The row of an execution, wherever it is.
    fn execution(&self, place: (LaneId, u64)) -> Option<&(domain::Hour, Arc<store::Head>)> {
        let there = self.executions.get(&place);
        there.or_else(|| self.gone.executions.get(&place))
    }
}

/// One key, one execution. What has no key is handed in again only if nothing was taken, as its client was told.
fn check_submissions(tables: &Tables) -> Result<(), String> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for (_, head) in tables
        .executions
        .values()
        .chain(tables.gone.executions.values())
    {
        let named = ["key", "n"]
            .iter()
            .find_map(|name| Some((*name, head.labels.get(*name)?)));
        if let Some((name, value)) = named {
            *counts.entry((name, value)).or_default() += 1;
        }
    }
    match counts.iter().find(|(_, count)| **count > 1) {
        Some(((name, value), count)) => Err(format!("{name} {value} has {count} executions")),
        None => Ok(()),
    }
}

/// Nothing ends twice, unless somebody had it run again in between; and nobody does so with what isn't over.
fn check_lives(place: (LaneId, u64), outcomes: &[&Outcome]) -> Result<(), String> {
    let mut is_open = true;
    for outcome in outcomes {
        let is_right = match (outcome.result, outcome.state) {
            (None, ExecutionState::DeadLettered) => !is_open,
            (None, _) => !std::mem::replace(&mut is_open, true),
            (_, state) if state.is_final() => std::mem::replace(&mut is_open, false),
            _ => is_open,
        };
        if !is_right {
            return Err(format!("{place:?} has the outcomes {outcomes:?}"));
        }
    }
    Ok(())
}

/// How often executions of a lane were run again by somebody's hand.
pub(super) fn reopened(tables: &Tables, lane: LaneId) -> usize {
    let all = tables
        .outcomes
        .values()
        .chain(tables.gone.outcomes.values());
    let reopened = |outcome: &&Outcome| {
        outcome.lane == lane && outcome.result.is_none() && !outcome.state.is_final()
    };
    all.filter(reopened).count()
}

/// The outcomes of an execution, by fence.
fn outcomes(tables: &Tables, (lane, seq): (LaneId, u64)) -> Vec<&Outcome> {
    let range = (lane, seq, 0)..=(lane, seq, u64::MAX);
    let gone = tables.gone.outcomes.range(range.clone());
    let all: BTreeMap<_, _> = tables.outcomes.range(range).chain(gone).collect();
    all.into_values().collect()
}

/// Whether an execution has an outcome that is final, and nobody has had it run again since.
pub(super) fn is_over(tables: &Tables, place: (LaneId, u64)) -> bool {
    let last = outcomes(tables, place).last().map(|last| last.state);
    last.is_some_and(ExecutionState::is_final)
}

/// An execution's last outcome that is there.
pub(super) fn last_end(tables: &Tables, place: ExecutionPlace) -> Option<LastEnd> {
    let ExecutionPlace { lane, seq, .. } = place;
    let stored = stored(tables, lane, seq)?;
    let last = LastOutcome::from(stored.attempts.last()?);
    let is_kept = tables.windows.kept_executions.contains(&(lane, seq));
    let saved = tables.last_saved(lane, seq);
    Some(LastEnd {
        last,
        is_kept,
        saved,
    })
}

/// What goes in is what came out, what left and what is there.
pub(super) fn check_counters(lane: &Lane) {
    for (queue, priority, line) in lane.lines() {
        let mine = |class: &domain::lane::Class| (class.queue, class.priority) == (queue, priority);
        let lens = lane.waiting().lens().filter(|(class, _)| mine(class));
        let depth: u64 = lens.map(|(_, len)| len).sum();
        let running = lane
            .running()
            .values()
            .filter(|running| mine(&running.class))
            .count();
        assert_eq!(
            line.enqueued,
            line.dequeued + line.removed + depth,
            "lane {}",
            lane.id()
        );
        let ended = line.acknowledged + line.rejected;
        assert_eq!(line.dequeued, ended + running as u64, "lane {}", lane.id());
    }
}

/// An execution as its rows tell it.
pub(super) fn stored(tables: &Tables, lane: LaneId, seq: u64) -> Option<StoredExecution> {
    let (_, head) = tables.executions.get(&(lane, seq))?;
    let outcomes = tables
        .outcomes
        .range((lane, seq, 0)..=(lane, seq, u64::MAX));
    let attempts = outcomes.map(|(_, outcome)| StoredAttempt {
        attempt: i16::try_from(outcome.attempt).unwrap_or(0),
        fence: outcome.fence,
        result: outcome.result.map_or(0, |result| result as i16),
        state: outcome.state,
        reason: outcome.reason as i16,
        worker: outcome.worker.to_string(),
        claimed: outcome.claimed,
        phases_us: [0; 4],
        at: outcome.claimed,
        next_at: outcome.next_at,
        error_class: None,
        error_message: None,
        output: None,
        output_type: None,
        trace_kept: false,
        budgets: outcome.budgets,
        items: outcome.items,
        progress: outcome.progress.clone(),
    });
    Some(StoredExecution {
        head: store::Head::clone(head),
        attempts: attempts.collect(),
    })
}
