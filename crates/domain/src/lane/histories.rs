//! Random histories of a lane over a model of the chain table: batches that abort, commits whose
//! answer is lost, owners that take over at any row, owners that don't know yet that they were
//! deposed. After every step: replay = memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{AttemptResult, Attempted, Backoff, ExecutionId, FinalState, RetryPolicy, decide};

/// What PostgreSQL holds: the chain under its primary key, the `due` entries, and the executions that were
/// accepted for at once.
#[derive(Default)]
struct Table {
    rows: BTreeMap<u64, Row>,
    due: BTreeMap<DueMark, TimedEntry>,
    executions: BTreeMap<u64, (Class, Micros)>,
}

impl Table {
    /// One transaction: all rows or none, each behind the row that it names.
    fn commit(&mut self, rows: &[Row], due: &[TimedEntry]) -> bool {
        let mut seen: HashMap<u64, u128> = HashMap::new();
        for row in rows {
            let n = row.previous.n;
            let there = seen
                .get(&n)
                .copied()
                .or_else(|| self.rows.get(&n).map(|r| r.link.batch));
            if there != Some(row.previous.batch) || self.rows.contains_key(&row.link.n) {
                return false;
            }
            seen.insert(row.link.n, row.link.batch);
        }
        for row in rows {
            for accepted in &row.delta.accepted {
                let seqs = accepted.first..accepted.first + u64::from(accepted.count);
                let executions = seqs.map(|seq| (seq, (accepted.class, row.at)));
                self.executions.extend(executions);
            }
            // Everything goes through the bytes, as it does in life.
            let delta = Delta::decode(&row.delta.encode()).expect("what was encoded is decoded");
            assert_eq!(delta, row.delta);
            self.rows.insert(
                row.link.n,
                Row {
                    delta,
                    ..row.clone()
                },
            );
        }
        self.due
            .extend(due.iter().map(|entry| (entry.mark, *entry)));
        true
    }

    /// What a lane reads of the first executions of a line that wait in their table.
    fn read(&self, lane: &Lane, class: Class, limit: usize) -> Option<StoredPage> {
        let span = lane.waiting().next_stored(class)?.span();
        let of_class = self.executions.range(span.from..=span.to);
        let of_class = of_class.filter(|(_, (of, _))| *of == class);
        let found: Vec<(u64, Micros)> = of_class
            .take(limit)
            .map(|(seq, (_, at))| (*seq, *at))
            .collect();
        let last = found.last().map_or(span.to, |(seq, _)| *seq);
        let upto = if found.len() < limit { span.to } else { last };
        let from = span.from;
        Some(StoredPage { from, upto, found })
    }

    fn replay(&self) -> Lane {
        let mut rows = self.rows.values();
        let mut lane = Lane::begin(rows.next().expect("a genesis row")).expect("it begins");
        for row in rows {
            lane.apply(row).expect("a committed row applies");
        }
        lane
    }
}

#[derive(Clone, Debug)]
enum Step {
    Submit {
        line: u8,
        count: u8,
        claim: u8,
    },
    Claim {
        slots: u8,
    },
    End {
        nth: u8,
        result: u8,
        permanent: bool,
        stale: bool,
    },
    Schedule {
        line: u8,
        seconds: u16,
    },
    Receive {
        line: u8,
        seconds: u16,
    },
    Cancel {
        nth: u8,
    },
    /// Saves a checkpoint, or sends an earlier one again.
    Save {
        nth: u8,
        again: bool,
        stale: bool,
    },
    /// Has something run again that is over.
    Reopen {
        nth: u8,
    },
    /// Reads what waits in the table, to be recalled by a row that comes later.
    Read {
        nth: u8,
        limit: u8,
    },
    Wait {
        seconds: u16,
    },
    TakeOver,
    MoveOn,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Commits,
    Aborts,
    /// It commits, and the owner doesn't get to know: it must take its own lane over.
    CommitsUnheard,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6, 1u8..9, 0u8..6).prop_map(|(line, count, claim)| Step::Submit { line, count, claim }),
        3 => (1u8..9).prop_map(|slots| Step::Claim { slots }),
        6 => (any::<u8>(), 0u8..8, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(nth, result, permanent, stale)| Step::End { nth, result, permanent, stale }),
        2 => (0u8..6, 0u16..400).prop_map(|(line, seconds)| Step::Schedule { line, seconds }),
        2 => (0u8..6, 0u16..400).prop_map(|(line, seconds)| Step::Receive { line, seconds }),
        3 => any::<u8>().prop_map(|nth| Step::Cancel { nth }),
        3 => (any::<u8>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(nth, again, stale)| Step::Save { nth, again, stale }),
        2 => any::<u8>().prop_map(|nth| Step::Reopen { nth }),
        4 => (any::<u8>(), 1u8..6).prop_map(|(nth, limit)| Step::Read { nth, limit }),
        2 => (0u16..400).prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::TakeOver),
        1 => Just(Step::MoveOn),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![8 => Just(Fate::Commits), 2 => Just(Fate::Aborts), 1 => Just(Fate::CommitsUnheard)]
}

fn class(line: u8) -> Class {
    let priority = Priority::ALL[usize::from(line) % 4];
    Class {
        tenant: 1,
        queue: i32::from(line) % 3,
        priority,
        job_type: 7,
        suspect: false,
    }
}

/// How far ahead due entries are read: short, so that some retries go through the table.
const HORIZON: i64 = 60_000_000;
/// Runs in memory beyond which what is accepted stays in its table: so few that much of it does.
const FULL: usize = 3;

struct World {
    table: Table,
    /// Owners in the order of their reigns; all but the last are deposed and may not know it.
    owners: Vec<Lane>,
    now: Micros,
    batch: u128,
    /// What was accepted, and its line.
    accepted: HashMap<u64, Class>,
    reopened: HashSet<u64>,
    /// The last checkpoint of each execution, open or over.
    saved: HashMap<u64, CheckpointMark>,
    finished: HashMap<u64, FinalState>,
    fences: HashSet<(u64, u64)>,
    numbers: HashSet<u64>,
    /// What the database numbered last.
    foreign: u64,
    /// What was read of a line and not recalled yet.
    read: Option<(Class, StoredPage)>,
    /// The last number of each line that was claimed for the first time.
    claimed: HashMap<Class, u64>,
}

impl World {
    fn new() -> Self {
        let now = Micros(1_790_000_000_000_000);
        let genesis = Row::genesis(LaneId(3), now);
        let mut table = Table::default();
        table.rows.insert(genesis.link.n, genesis);
        let owners = vec![table.replay()];
        Self {
            table,
            owners,
            now,
            batch: 0,
            accepted: HashMap::new(),
            reopened: HashSet::new(),
            saved: HashMap::new(),
            finished: HashMap::new(),
            fences: HashSet::new(),
            numbers: HashSet::new(),
            foreign: ExecutionId::FIRST_FOREIGN_SEQ,
            read: None,
            claimed: HashMap::new(),
        }
    }

    fn act(&mut self, step: &Step, owner: usize, fate: Fate) {
        self.batch += 1;
        self.now = self.now.plus(std::time::Duration::from_millis(7));
        let owner = owner % self.owners.len();
        match step {
            Step::TakeOver => self.take_over(fate),
            Step::MoveOn => self.move_on(owner, fate),
            Step::Read { nth, limit } => self.read(owner, *nth, *limit),
            Step::Wait { seconds } => {
                self.now = self
                    .now
                    .plus(std::time::Duration::from_secs(u64::from(*seconds)));
                self.write(owner, fate, &Step::Wait { seconds: *seconds });
            }
            step => self.write(owner, fate, step),
        }
        self.check();
    }

    fn take_over(&mut self, fate: Fate) {
        let mut lane = self.table.replay();
        let timeline = i32::try_from(self.batch / 7).unwrap_or(0);
        let database = DatabaseIdentity {
            system: 9,
            timeline,
        };
        let rows = lane.take_over(lane.epoch() + 1, database, self.now, self.batch);
        if fate == Fate::Aborts {
            return;
        }
        assert!(
            self.table.commit(&rows, &[]),
            "nobody else writes in between"
        );
        for row in &rows {
            lane.apply(row).expect("a take-over applies");
        }
        self.owners.push(lane);
    }

    fn move_on(&mut self, owner: usize, fate: Fate) {
        let rows = self.owners[owner].move_on(self.now, self.batch);
        let now = u64::try_from(self.now.0).unwrap();
        assert!(rows[1].link.n >= now, "none of an older window is needed");
        let valid = owner == self.owners.len() - 1;
        if fate == Fate::Aborts {
            return;
        }
        assert_eq!(self.table.commit(&rows, &[]), valid);
        if !valid {
            self.owners.remove(owner);
            return;
        }
        for row in &rows {
            self.owners[owner]
                .apply(row)
                .expect("a committed row applies");
        }
    }

    fn read(&mut self, owner: usize, nth: u8, limit: u8) {
        let lane = &self.owners[owner];
        let mut classes: Vec<Class> = lane.waiting().stored().map(|(class, _)| class).collect();
        classes.sort_unstable();
        if let Some(class) = classes.get(usize::from(nth) % classes.len().max(1)) {
            let page = self.table.read(lane, *class, usize::from(limit));
            self.read = page.map(|page| (*class, page));
        }
    }

    fn write(&mut self, owner: usize, fate: Fate, step: &Step) {
        let before = self.owners[owner].clone();
        let (row, due) = self.plan(owner, step);
        assert_eq!(before, self.owners[owner], "planning changes nothing");
        let Some(row) = row else { return };
        let valid = owner == self.owners.len() - 1;
        if fate == Fate::Aborts {
            return;
        }
        let committed = self.table.commit(std::slice::from_ref(&row), &due);
        assert_eq!(
            committed, valid,
            "a deposed owner never writes, the valid one does"
        );
        if !committed {
            // It steps down for good.
            self.owners.remove(owner);
            return;
        }
        self.witness(&row);
        if fate == Fate::CommitsUnheard {
            self.take_over(Fate::Commits);
        } else {
            self.owners[owner]
                .apply(&row)
                .expect("a committed row applies");
        }
    }

    fn plan(&mut self, owner: usize, step: &Step) -> (Option<Row>, Vec<TimedEntry>) {
        self.foreign += 1;
        let lane = &self.owners[owner];
        let mut draft = lane.draft(self.now);
        if lane.waiting().run_count() >= FULL {
            draft.store_beyond(1);
        }
        let mut due = Vec::new();
        self.read_ahead(&mut draft);
        if let Step::Cancel { nth } = step {
            self.plan_cancel(&mut draft, usize::from(*nth));
        }
        if let Step::End {
            nth,
            result,
            permanent,
            stale,
        } = step
        {
            self.plan_end(&mut draft, &mut due, (*nth, *result, *permanent, *stale));
        }
        if let Step::Save { nth, again, stale } = step {
            self.plan_save(&mut draft, usize::from(*nth), (*again, *stale));
        }
        if let Step::Schedule { line, seconds } | Step::Receive { line, seconds } = step {
            let own = matches!(step, Step::Schedule { .. });
            self.plan_later(&mut draft, &mut due, (own, *line, *seconds));
        }
        let slots = match step {
            Step::Submit { line, count, claim } => {
                draft.accept(class(*line), u32::from(*count));
                *claim
            }
            Step::Claim { slots } => *slots,
            _ => 0,
        };
        draft.promote();
        plan_claims(&mut draft, u32::from(slots));
        if let Some((class, page)) = &self.read {
            let recalled = draft.recall(*class, page);
            assert_eq!(recalled, Ok(()), "the table has what the chain says");
        }
        if let Step::Reopen { nth } = step {
            self.plan_reopen(&mut draft, usize::from(*nth));
        }
        let row = (!draft.is_empty()).then(|| draft.seal(self.batch));
        (row, due)
    }

    fn read_ahead(&self, draft: &mut Draft<'_>) {
        let until = DueMark {
            due: Micros(self.now.0 + HORIZON),
            seq: u64::MAX,
        };
        let from = draft.lane().due_read();
        if from.due.0 > self.now.0 + HORIZON / 2 {
            return;
        }
        let range = (
            std::ops::Bound::Excluded(from),
            std::ops::Bound::Included(until),
        );
        draft.read_due(until, self.table.due.range(range).map(|(_, entry)| *entry));
    }

    /// Every second one that comes through the inbox is due at once.
    fn plan_later(
        &self,
        draft: &mut Draft<'_>,
        due: &mut Vec<TimedEntry>,
        (own, line, seconds): (bool, u8, u16),
    ) {
        let class = class(line);
        let at = self
            .now
            .plus(std::time::Duration::from_secs(u64::from(seconds)));
        let home = at.hour();
        let seq = match own {
            true => draft.schedule(class, at),
            false if seconds % 2 == 0 => {
                let seq = self.foreign;
                return draft.receive(Received { seq, class, home });
            }
            false => {
                let mark = DueMark {
                    due: at,
                    seq: self.foreign,
                };
                draft.schedule_numbered(class, mark);
                self.foreign
            }
        };
        let mark = DueMark { due: at, seq };
        if draft.is_beyond(mark) {
            let (budgets, wait) = (Budgets::default(), Wait::Scheduled);
            due.push(TimedEntry {
                mark,
                class,
                home,
                budgets,
                wait,
            });
        }
    }

    fn plan_cancel(&self, draft: &mut Draft<'_>, nth: usize) {
        let lane = draft.lane();
        let mut open: Vec<TimedEntry> = lane.timers().iter().map(|(m, t)| t.entry(*m)).collect();
        open.extend(
            self.table
                .due
                .values()
                .filter(|entry| entry.mark > lane.due_read()),
        );
        let at = |seq, class| TimedEntry {
            mark: DueMark { due: self.now, seq },
            class,
            home: self.now.hour(),
            budgets: Budgets::default(),
            wait: Wait::Scheduled,
        };
        for (class, run) in lane.waiting().runs() {
            open.extend(run.seqs().map(|seq| at(seq, class)));
        }
        open.extend(self.stored(lane).map(|(seq, class)| at(seq, class)));
        open.extend(
            lane.running()
                .iter()
                .map(|(seq, running)| at(*seq, running.class)),
        );
        // Somebody had it run again since: its rows name that entry no more.
        open.retain(|entry| {
            !lane.skipped.contains(&entry.mark) || !self.reopened.contains(&entry.mark.seq)
        });
        open.sort_unstable_by_key(|entry| entry.mark);
        let Some(entry) = open.get(nth % open.len().max(1)) else {
            return;
        };
        let over = lane.skipped.contains(&entry.mark);
        let rows = match self.table.executions.contains_key(&entry.mark.seq) {
            true if entry.wait == Wait::Scheduled => InTable::Fresh,
            _ => InTable::Due,
        };
        assert_eq!(
            draft.cancel(*entry, rows).is_err(),
            over,
            "what is open can be cancelled, once: {entry:?}"
        );
        assert_eq!(draft.cancel(*entry, rows), Err(NotFound));
    }

    fn plan_reopen(&self, draft: &mut Draft<'_>, nth: usize) {
        let mut over: Vec<u64> = self.finished.keys().copied().collect();
        over.sort_unstable();
        let Some(seq) = over.get(nth % over.len().max(1)).copied() else {
            return;
        };
        let (class, home) = (self.accepted[&seq], self.now.hour());
        let saved = self.saved.get(&seq).copied();
        let reopened = Reopened {
            seq,
            class,
            home,
            saved,
        };
        let is_deposed = draft.lane().link() != self.owners[self.owners.len() - 1].link();
        assert!(draft.reopen(reopened).is_ok() || is_deposed);
        assert_eq!(draft.reopen(reopened), Err(NotOver), "once");
    }

    fn plan_save(&self, draft: &mut Draft<'_>, nth: usize, (again, stale): (bool, bool)) {
        let lane = draft.lane();
        let mut running: Vec<_> = lane.running().iter().collect();
        running.sort_unstable_by_key(|(seq, _)| **seq);
        let Some((seq, running)) = running.get(nth % running.len().max(1)).copied() else {
            return;
        };
        let fence = running.fence;
        if stale {
            let (fence, number) = (fence - 1, u64::MAX);
            let mark = CheckpointMark { fence, number };
            assert_eq!(draft.save(*seq, mark), Err(Stale));
            return;
        }
        let last = lane.saved(*seq);
        let of_this_attempt = last.filter(|last| last.fence == fence);
        let number = of_this_attempt.map_or(0, |last| last.number) + u64::from(!again);
        let mark = CheckpointMark { fence, number };
        assert_eq!(
            draft.save(*seq, mark),
            Ok(last.is_none_or(|last| mark > last))
        );
        assert_eq!(draft.save(*seq, mark), Ok(false), "once");
    }

    /// What waits in the table alone, one by one.
    fn stored(&self, lane: &Lane) -> impl Iterator<Item = (u64, Class)> {
        let executions = self.table.executions.iter();
        executions
            .filter(|(seq, (class, _))| lane.waiting().is_stored(*class, **seq))
            .map(|(seq, (class, _))| (*seq, *class))
    }

    fn plan_end(
        &self,
        draft: &mut Draft<'_>,
        due: &mut Vec<TimedEntry>,
        end: (u8, u8, bool, bool),
    ) {
        let (nth, result, permanent, stale) = end;
        let lane = draft.lane();
        let mut seqs: Vec<u64> = lane.running().keys().copied().collect();
        seqs.sort_unstable();
        let Some(seq) = seqs.get(usize::from(nth) % seqs.len().max(1)).copied() else {
            return;
        };
        let running = &lane.running()[&seq];
        if stale {
            assert_eq!(draft.running(seq, running.fence - 1).err(), Some(Stale));
            return;
        }
        let backoff = Backoff {
            initial: std::time::Duration::from_secs(20),
            ..RetryPolicy::default().backoff
        };
        let policy = RetryPolicy {
            max_attempts: 4,
            backoff,
            ..RetryPolicy::default()
        };
        let result = AttemptResult::ALL[usize::from(result) % AttemptResult::ALL.len()];
        let draw = f64::from(nth) / 256.0;
        let second = std::time::Duration::from_secs(1);
        let attempted = Attempted {
            result,
            permanent,
            put_off: (nth % 2 == 0).then_some(second * 90),
            left: (nth % 16 == 0).then_some(second * 30),
        };
        let mut decision = decide(attempted, running.budgets, &policy, draw);
        if draft.is_cancelled(seq) {
            decision = decision.after_cancel();
        }
        let ending = draft.end(seq, running.fence, &decision).expect("it runs");
        assert_eq!(
            draft.end(seq, running.fence, &decision),
            Err(Stale),
            "it ends once"
        );
        if let Ending::Retried {
            due: at,
            to_table: true,
        } = ending
        {
            let mark = DueMark { due: at, seq };
            let (home, budgets) = (running.home, decision.budgets);
            let class = running.class.after(budgets);
            let wait = Wait::Retrying;
            due.push(TimedEntry {
                mark,
                class,
                home,
                budgets,
                wait,
            });
        }
    }

    /// Notes what a committed row promises, and that it keeps what earlier ones promised.
    fn witness(&mut self, row: &Row) {
        for saved in &row.delta.saved {
            let before = self.saved.insert(saved.seq, saved.mark);
            assert!(
                before.is_none_or(|before| before < saved.mark),
                "it only grows"
            );
        }
        for accepted in &row.delta.accepted {
            for seq in accepted.first..accepted.first + u64::from(accepted.count) {
                assert!(self.numbers.insert(seq), "number {seq} is given twice");
                self.accepted.insert(seq, accepted.class);
            }
        }
        let later = row.delta.scheduled.iter();
        let later = later.map(|entry| (entry.mark.seq, entry.class));
        let received = row.delta.received.iter();
        let received = received.map(|received| (received.seq, received.class));
        for (seq, class) in later.chain(received) {
            assert!(self.numbers.insert(seq), "number {seq} is given twice");
            self.accepted.insert(seq, class);
        }
        for cancelled in row
            .delta
            .cancelled
            .iter()
            .filter(|cancelled| cancelled.is_over())
        {
            let seq = cancelled.seq();
            let before = self.finished.insert(seq, FinalState::Cancelled);
            assert_eq!(before, None, "{seq} finishes twice");
        }
        for claimed in &row.delta.claimed {
            for seq in claimed.first..claimed.first + u64::from(claimed.count) {
                assert!(
                    self.fences.insert((seq, row.link.n)),
                    "a fence of {seq} comes again"
                );
                self.witness_order(claimed.class, seq);
            }
        }
        for closed in &row.delta.closed {
            let before = self.finished.insert(closed.seq, closed.state);
            assert_eq!(before, None, "{} finishes twice", closed.seq);
        }
        for reopened in &row.delta.reopened {
            let before = self.finished.remove(&reopened.seq);
            assert!(before.is_some(), "{} is run again and open", reopened.seq);
            self.reopened.insert(reopened.seq);
        }
    }

    /// What was accepted for at once is claimed in the order of acceptance; again, in any.
    fn witness_order(&mut self, class: Class, seq: u64) {
        let again = self.fences.iter().filter(|(of, _)| *of == seq).count() > 1;
        if again || self.reopened.contains(&seq) || !self.table.executions.contains_key(&seq) {
            return;
        }
        let before = self.claimed.insert(class, seq);
        assert!(before < Some(seq), "{seq} is claimed after {before:?}");
    }

    fn check(&self) {
        let lane = self.table.replay();
        assert_eq!(
            &lane,
            self.owners.last().expect("an owner"),
            "replay = memory"
        );
        let again = Lane::from_snapshot(lane.id(), &lane.to_snapshot()).expect("its own bytes");
        assert_eq!(again, lane, "a snapshot is the whole of it");
        self.check_nothing_is_lost(&lane);
        for seq in self.accepted.keys() {
            let is_open = !self.finished.contains_key(seq);
            let last = self.saved.get(seq).filter(|_| is_open);
            assert_eq!(
                lane.saved(*seq).as_ref(),
                last,
                "the last checkpoint of {seq}"
            );
        }
        let (waiting, stored) = (lane.waiting(), self.stored(&lane));
        assert_eq!(waiting.stored_count(), stored.count() as u64);
        assert_eq!(waiting.run_count(), waiting.runs().count());
        for (class, len) in lane.waiting().lens() {
            let known = waiting.line(class).map(|run| u64::from(run.count));
            let stored = self.stored(&lane).filter(|(_, of)| *of == class);
            let counted = known.sum::<u64>() + stored.count() as u64;
            assert_eq!(len, counted, "{class:?}");
            let queue = lane
                .waiting()
                .lens()
                .filter(|(c, _)| c.queue == class.queue);
            let depth: u64 = queue.map(|(_, len)| len).sum();
            assert_eq!(lane.depth(class.queue), depth, "{class:?}");
        }
        for than in Priority::ALL {
            let less_urgent = |running: &Running| running.class.priority > than;
            let runs = lane.running().values().any(less_urgent);
            assert_eq!(lane.runs_less_urgent(than), runs, "{than:?}");
        }
        for (queue, priority, line) in lane.lines() {
            let mine = |class: &Class| (class.queue, class.priority) == (queue, priority);
            let lens = lane.waiting().lens().filter(|(class, _)| mine(class));
            let depth: u64 = lens.map(|(_, len)| len).sum();
            let inflight = lane
                .running()
                .values()
                .filter(|running| mine(&running.class))
                .count() as u64;
            assert_eq!(
                line.enqueued,
                line.dequeued + line.removed + depth,
                "enqueued = dequeued + removed + depth"
            );
            assert_eq!(line.dequeued, line.acknowledged + line.rejected + inflight);
        }
    }

    /// Each accepted execution is in exactly one place.
    fn check_nothing_is_lost(&self, lane: &Lane) {
        let mut places: Vec<u64> = self.finished.keys().copied().collect();
        places.extend(lane.waiting().runs().flat_map(|(_, run)| run.seqs()));
        places.extend(self.stored(lane).map(|(seq, _)| seq));
        places.extend(lane.running().keys());
        places.extend(lane.timers().keys().map(|mark| mark.seq));
        let beyond = self
            .table
            .due
            .keys()
            .filter(|mark| **mark > lane.due_read() && !lane.skipped.contains(mark));
        places.extend(beyond.map(|mark| mark.seq));
        places.sort_unstable();
        let mut accepted: Vec<u64> = self.accepted.keys().copied().collect();
        accepted.sort_unstable();
        assert_eq!(
            places, accepted,
            "each accepted execution is in exactly one place"
        );
    }
}

fn plan_claims(draft: &mut Draft<'_>, mut slots: u32) {
    let worker: Arc<str> = Arc::from("worker-1");
    let mut classes: Vec<Class> = draft.classes().collect();
    classes.sort_unstable();
    for class in classes {
        while slots > 0 {
            let Some(run) = draft.claim(class, slots.min(3), &worker) else {
                break;
            };
            slots -= run.count;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_replay_is_memory(
        steps in prop::collection::vec((step(), 0usize..4, fate()), 1..60),
    ) {
        let mut world = World::new();
        for (step, owner, fate) in &steps {
            // Mostly the valid owner acts; now and then one that was deposed.
            let owner = if *owner == 0 { *owner } else { world.owners.len() - 1 };
            world.act(step, owner, *fate);
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Delta::decode(&bytes);
        for version in [1, 2, 3, 4, 5, 6] {
            let versioned = [&[version], &bytes[..]].concat();
            let _ = Delta::decode(&versioned);
            let _ = Lane::from_snapshot(LaneId(0), &versioned);
        }
    }
}

#[test]
fn a_take_over_can_come_at_every_row_of_a_history() {
    let steps = [
        Step::Submit {
            line: 0,
            count: 5,
            claim: 3,
        },
        Step::Submit {
            line: 1,
            count: 2,
            claim: 0,
        },
        Step::End {
            nth: 0,
            result: 0,
            permanent: false,
            stale: false,
        },
        Step::Save {
            nth: 1,
            again: false,
            stale: false,
        },
        Step::End {
            nth: 1,
            result: 1,
            permanent: false,
            stale: false,
        },
        Step::Wait { seconds: 300 },
        Step::Claim { slots: 8 },
        Step::End {
            nth: 0,
            result: 4,
            permanent: false,
            stale: false,
        },
    ];
    for at in 0..=steps.len() {
        let mut world = World::new();
        for (place, step) in steps.iter().enumerate() {
            if place == at {
                world.act(&Step::TakeOver, 0, Fate::Commits);
            }
            world.act(step, world.owners.len() - 1, Fate::Commits);
        }
        // The deposed owner comes back from its pause and finds that it can't write.
        let owners = world.owners.len();
        if owners > 1 {
            world.act(
                &Step::Submit {
                    line: 0,
                    count: 1,
                    claim: 1,
                },
                0,
                Fate::Commits,
            );
            assert_eq!(world.owners.len(), owners - 1);
        }
        assert_eq!(world.accepted.len(), 7);
    }
}

#[test]
fn a_batch_of_claims_and_successes_takes_few_bytes() {
    let mut lane = Lane::begin(&Row::genesis(LaneId(0), Micros(1_790_000_000_000_000))).unwrap();
    let worker: Arc<str> = Arc::from("worker-1");
    let mut draft = lane.draft(Micros(1_790_000_001_000_000));
    draft.accept(class(0), 1_000);
    let claimed = draft.claim(class(0), 500, &worker).unwrap();
    assert_eq!(claimed.count, 500);
    let row = draft.seal(1);
    assert!(
        row.delta.encode().len() < 64,
        "{} bytes",
        row.delta.encode().len()
    );
    lane.apply(&row).unwrap();

    let mut draft = lane.draft(Micros(1_790_000_002_000_000));
    let fence = row.link.n;
    let policy = RetryPolicy::default();
    for seq in claimed.first..claimed.first + 500 {
        let attempted = Attempted::from(AttemptResult::Success);
        let decision = decide(attempted, Budgets::default(), &policy, 0.0);
        draft.end(seq, fence, &decision).unwrap();
    }
    let bytes = draft.seal(2).delta.encode().len();
    assert!(bytes < 1_100, "{bytes} bytes");
}

#[test]
fn of_two_take_overs_from_the_same_row_the_later_one_lies_beyond_the_other() {
    let at = |us: i64| Micros(1_790_000_000_000_000 + us);
    let database = DatabaseIdentity::default();
    let lane = Lane::begin(&Row::genesis(LaneId(0), at(0))).unwrap();
    let fence = |lane: &Lane, us: i64| lane.take_over(1, database, at(us), 1)[1].link.n;
    for (lost, again) in [(1_i64, 2), (1_000, 900_000), (900_000, 3_000_000)] {
        // The first was lost with the database's tail, and up to a row a microsecond behind it.
        assert!(fence(&lane, again) >= fence(&lane, lost) + (again - lost).unsigned_abs());
    }
    // What was taken over is ahead of the time; the next owner comes before that has passed.
    let mut ahead = lane.clone();
    for row in lane.take_over(1, database, at(0), 1) {
        ahead.apply(&row).unwrap();
    }
    assert!(fence(&ahead, 2_000) >= fence(&ahead, 1_000) + 1_000);
    // A clock that was set back by more than rows are ahead of it.
    assert!(fence(&ahead, -5_000_000) > ahead.link().n + 1_000_000);
}
