//! The database's tables, as a model.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::lane::{CheckpointMark, DatabaseIdentity, DueMark, Lane, Row, TimedEntry};
use domain::{ExecutionId, Hour, LaneId, Micros};
use store::{Checkpoint, Claimant, Head, InboxEntry, Outcome};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::History;
use super::windows::Windows;

/// The world begins at this hour by the database's clock, or a moment before.
const BEGIN: Micros = Micros(1_800_000_000_000_000);

/// A lease of a lane.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) epoch: i64,
    pub(super) incarnation: Uuid,
    pub(super) holder: String,
    pub(super) expires: Micros,
}

/// An entry of the inbox, and the transaction that put it there.
#[derive(Clone, Debug)]
pub(super) struct Posted {
    pub(super) xid: u64,
    pub(super) ord: i64,
    pub(super) at: Micros,
    pub(super) entry: InboxEntry,
}

/// What went with its windows, for those who look back.
#[derive(Clone, Default)]
pub(super) struct Gone {
    pub(super) chain: BTreeMap<(LaneId, u64), Row>,
    pub(super) executions: BTreeMap<(LaneId, u64), (Hour, Arc<Head>)>,
    pub(super) outcomes: BTreeMap<(LaneId, u64, u64), Outcome>,
}

/// Everything that is committed.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) chain: BTreeMap<(LaneId, u64), Row>,
    /// What the chain of each lane says, row by row as it is committed.
    pub(super) replayed: BTreeMap<LaneId, Lane>,
    /// The newest of each lane: of which row, and what it says.
    pub(super) snapshots: BTreeMap<LaneId, (u64, Vec<u8>)>,
    pub(super) executions: BTreeMap<(LaneId, u64), (Hour, Arc<Head>)>,
    pub(super) outcomes: BTreeMap<(LaneId, u64, u64), Outcome>,
    pub(super) checkpoints: BTreeMap<(LaneId, u64, CheckpointMark), Checkpoint>,
    pub(super) due: BTreeMap<(LaneId, DueMark), TimedEntry>,
    pub(super) keys: BTreeMap<[u8; 16], (i64, ExecutionId)>,
    pub(super) inbox: Vec<Posted>,
    pub(super) leases: BTreeMap<LaneId, Lease>,
    pub(super) leader: Lease,
    pub(super) schedulers: BTreeMap<String, (String, Micros)>,
    pub(super) identity: DatabaseIdentity,
    pub(super) windows: Windows,
    pub(super) gone: Gone,
}

/// What a transaction that isn't over holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Lock {
    Row(LaneId, u64),
    Key([u8; 16]),
}

pub(super) struct State {
    pub(super) tables: Tables,
    pub(super) locks: BTreeMap<Lock, u64>,
    /// Transactions that aren't over.
    pub(super) open: BTreeSet<u64>,
    pub(super) next_xid: u64,
    pub(super) next_ord: i64,
    pub(super) next_foreign: u64,
    /// What the database was at some time, for when it loses what came since.
    copy: Option<(Tables, u64)>,
    /// How often it was replaced: no connection outlives that.
    pub(super) restored: u64,
}

/// The database.
#[derive(Clone)]
pub(super) struct Model {
    /// How many runs of what waits a lane group keeps in memory.
    pub(super) waiting_share: usize,
    begin: (Instant, Micros),
    state: Arc<Mutex<State>>,
    /// Rung when a transaction ends.
    pub(super) ended: Arc<Notify>,
    pub(super) history: History,
}

impl Model {
    /// A database that begins `before` an hour is full, whose schedulers' groups keep so many runs in memory.
    pub(super) fn new(history: History, before: Duration, waiting_share: usize) -> Self {
        let before = i64::try_from(before.as_micros()).expect("a short while");
        let begin = Micros(BEGIN.0 - before);
        let nobody = Lease {
            epoch: 0,
            incarnation: Uuid::nil(),
            holder: String::new(),
            expires: Micros(i64::MIN),
        };
        let tables = Tables {
            chain: BTreeMap::new(),
            replayed: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            executions: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            due: BTreeMap::new(),
            keys: BTreeMap::new(),
            inbox: Vec::new(),
            leases: BTreeMap::new(),
            leader: nobody,
            schedulers: BTreeMap::new(),
            identity: DatabaseIdentity {
                system: 42,
                timeline: 1,
            },
            windows: Windows::from(begin),
            gone: Gone::default(),
        };
        let state = State {
            tables,
            locks: BTreeMap::new(),
            open: BTreeSet::new(),
            next_xid: 1,
            next_ord: 1,
            next_foreign: ExecutionId::FIRST_FOREIGN_SEQ,
            copy: None,
            restored: 0,
        };
        Self {
            waiting_share,
            begin: (Instant::now(), begin),
            state: Arc::new(Mutex::new(state)),
            ended: Arc::default(),
            history,
        }
    }

    /// The database's clock.
    pub(super) fn now(&self) -> Micros {
        let (begin, at) = self.begin;
        at.plus(begin.elapsed())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the database as it is.
    pub(super) fn copy(&self) {
        self.history.note(|| "db: is copied".to_owned());
        let mut state = self.state();
        state.copy = Some((state.tables.clone(), state.next_foreign));
    }

    /// Replaces the database by its last copy, on another timeline or as if nothing had been. Gives
    /// what it was, if there is a copy.
    pub(super) fn restore(&self, notices: bool) -> Option<Tables> {
        let mut state = self.state();
        let (tables, next_foreign) = state.copy.take()?;
        self.history
            .note(|| format!("db: is replaced by its copy, on another timeline: {notices}"));
        let timeline = state.tables.identity.timeline + i32::from(notices);
        let before = std::mem::replace(&mut state.tables, tables);
        state.next_foreign = next_foreign;
        state.restored += 1;
        state.tables.identity.timeline = timeline;
        // Numbers of transactions go on: they are handles here.
        state.open.clear();
        state.locks.clear();
        drop(state);
        self.ended.notify_waiters();
        Some(before)
    }

    /// Ends a transaction: what it held is free.
    pub(super) fn end(&self, xid: u64) {
        let mut state = self.state();
        state.open.remove(&xid);
        state.locks.retain(|_, holder| *holder != xid);
        drop(state);
        self.ended.notify_waiters();
    }
}

impl Tables {
    /// Adds a row to its chain, through its bytes as in life; what replays it must take it.
    pub(super) fn add_row(&mut self, row: &Row) {
        let delta = domain::lane::Delta::decode(&row.delta.encode()).expect("its own bytes");
        let row = Row {
            delta,
            ..row.clone()
        };
        match self.replayed.get_mut(&row.lane) {
            None => {
                let lane = Lane::begin(&row).expect("a genesis row");
                self.replayed.insert(row.lane, lane);
            }
            Some(lane) => {
                if let Err(misfit) = lane.apply(&row) {
                    panic!("a committed row doesn't apply: {misfit}");
                }
            }
        }
        self.chain.insert((row.lane, row.link.n), row);
    }

    /// A lane as a new owner reads it: from its newest snapshot on.
    pub(super) fn replay(&self, id: LaneId) -> Option<Lane> {
        let begin = self.snapshots.get(&id);
        let mut lane =
            begin.map(|(_, bytes)| Lane::from_snapshot(id, bytes).expect("its own bytes"));
        let after = lane.as_ref().map_or(0, |lane| lane.link().n + 1);
        for (_, row) in self.chain.range((id, after)..=(id, u64::MAX)) {
            match &mut lane {
                None => lane = Some(Lane::begin(row).expect("a genesis row")),
                Some(lane) => lane.apply(row).expect("a committed row applies"),
            }
        }
        lane
    }

    /// Ends the leases that somebody holds of these lanes.
    pub(super) fn release(&mut self, claimant: &Claimant, lanes: &[LaneId]) {
        for (lane, lease) in &mut self.leases {
            if lanes.contains(lane) && lease.incarnation == claimant.incarnation {
                lease.expires = Micros(i64::MIN);
            }
        }
    }

    /// The last checkpoint of an execution that is there.
    pub(super) fn last_saved(&self, lane: LaneId, seq: u64) -> Option<CheckpointMark> {
        let all = self.checkpoints_of(lane, seq);
        all.last().map(|((_, _, mark), _)| *mark)
    }

    /// The checkpoints of an execution that are there.
    pub(super) fn checkpoints_of(
        &self,
        lane: LaneId,
        seq: u64,
    ) -> btree_map::Range<'_, (LaneId, u64, CheckpointMark), Checkpoint> {
        let mark = |number| CheckpointMark {
            fence: number,
            number,
        };
        self.checkpoints
            .range((lane, seq, mark(0))..=(lane, seq, mark(u64::MAX)))
    }
}
