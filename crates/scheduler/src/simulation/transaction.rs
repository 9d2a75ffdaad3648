//! Transactions of the model: what they insert is seen when they commit, what they hold makes others wait.

use std::sync::Arc;
use std::time::Duration;

use domain::lane::Row;
use domain::{ExecutionId, LaneId, Micros};
use store::{Batch, Error, Head, NewKey, Place, Table};
use tokio::time::Instant;

use super::database::{Lock, Model, State};

/// How long a writer waits for a foreign transaction.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// A transaction that is under way in the database, whether its client hears of it or not.
pub(super) struct Transaction<'a> {
    model: &'a Model,
    pub(super) xid: u64,
    /// How long it waits for what others hold.
    patience: Duration,
}

impl<'a> Transaction<'a> {
    pub(super) fn begin(model: &'a Model, patience: Duration) -> Self {
        let mut state = model.state();
        let xid = state.next_xid;
        state.next_xid += 1;
        state.open.insert(xid);
        drop(state);
        Self {
            model,
            xid,
            patience,
        }
    }

    /// One that was begun before.
    pub(super) fn resume(model: &'a Model, xid: u64) -> Self {
        let patience = Duration::ZERO;
        Self {
            model,
            xid,
            patience,
        }
    }

    /// Claims what is unique: the keys first, then the rows' places. Waits for whoever holds them.
    pub(super) async fn claim(&self, rows: &[Row], keys: &[NewKey]) -> Result<(), Error> {
        let mut keys: Vec<[u8; 16]> = keys.iter().map(|key| key.key).collect();
        keys.sort_unstable();
        // What a statement doesn't see as it begins, it never sees.
        let follow: Vec<bool> = {
            let state = self.model.state();
            rows.iter().map(|row| follows(&state, rows, row)).collect()
        };
        for key in keys {
            self.claim_one(Lock::Key(key)).await?;
        }
        for row in rows {
            self.claim_one(Lock::Row(row.lane, row.link.n)).await?;
        }
        match follow.iter().all(|follows| *follows) {
            true => Ok(()),
            false => Err(deposed("a row before is missing")),
        }
    }

    async fn claim_one(&self, lock: Lock) -> Result<(), Error> {
        let until = Instant::now() + self.patience;
        loop {
            let ended = self.model.ended.notified();
            {
                let mut state = self.model.state();
                if !state.open.contains(&self.xid) {
                    return Err(super::link::broken());
                }
                if let Some(taken) = taken(&state, &lock) {
                    return Err(taken);
                }
                match state.locks.get(&lock) {
                    Some(holder) if *holder != self.xid => {}
                    _ => {
                        state.locks.insert(lock, self.xid);
                        return Ok(());
                    }
                }
            }
            if tokio::time::timeout_at(until, ended).await.is_err() {
                return Err(Error::Blocked { statement: "model" });
            }
        }
    }

    /// Commits a batch that was claimed.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let mut state = self.model.state();
        if !state.open.contains(&self.xid) {
            return Err(super::link::broken());
        }
        let tables = &mut state.tables;
        for row in &batch.rows {
            tables.add_row(row);
        }
        let accepted = batch.rows.first().map(|row| row.at).unwrap_or_default();
        let windows = &mut tables.windows;
        for new in &batch.executions {
            let there = windows.has(Table::Execution, new.home);
            match new.place {
                Place::Window => assert!(there, "execution {} has no window", new.seq),
                Place::Kept => drop(windows.kept_executions.insert((new.lane, new.seq))),
            }
        }
        for outcome in &batch.outcomes {
            let place = (outcome.lane, outcome.seq, outcome.fence);
            let there = windows.has(Table::Outcome, outcome.home);
            match outcome.place {
                Place::Window => assert!(there, "outcome {place:?} has no window"),
                Place::Kept => drop(windows.kept_outcomes.insert(place)),
            }
        }
        for new in &batch.executions {
            let row = (new.home, stored_head(&new.head, accepted));
            let before = tables.executions.insert((new.lane, new.seq), row);
            assert!(
                before.is_none(),
                "execution {} of lane {} comes twice",
                new.seq,
                new.lane
            );
        }
        for outcome in &batch.outcomes {
            let place = (outcome.lane, outcome.seq, outcome.fence);
            let before = tables.outcomes.insert(place, outcome.clone());
            assert!(before.is_none(), "outcome {place:?} comes twice");
        }
        for saved in &batch.checkpoints {
            let place = (saved.lane, saved.seq, saved.mark);
            match saved.place {
                Place::Window => assert!(
                    tables.windows.has(Table::Checkpoint, saved.home),
                    "checkpoint {place:?} has no window"
                ),
                Place::Kept => drop(tables.windows.kept_checkpoints.insert(place)),
            }
            let before = tables.checkpoints.insert(place, saved.clone());
            assert!(before.is_none(), "checkpoint {place:?} comes twice");
        }
        for due in &batch.due {
            tables.due.insert((due.lane, due.entry.mark), due.entry);
        }
        add_keys(&mut state, &batch.keys);
        drop(state);
        self.model.end(self.xid);
        Ok(())
    }

    pub(super) fn roll_back(&self) {
        self.model.end(self.xid);
    }
}

/// The head as its row has it: with the time of its batch.
pub(super) fn stored_head(head: &Head, accepted: Micros) -> Arc<Head> {
    Arc::new(Head {
        accepted,
        ..Head::clone(head)
    })
}

pub(super) fn add_keys(state: &mut State, keys: &[NewKey]) {
    for NewKey {
        key,
        fingerprint,
        id,
        ..
    } in keys
    {
        let before = state.tables.keys.insert(*key, (*fingerprint, *id));
        assert!(before.is_none(), "a key names two executions");
    }
}

/// Whether the row before is there, committed or in the same transaction.
fn follows(state: &State, rows: &[Row], row: &Row) -> bool {
    let before = &row.previous;
    let own = rows
        .iter()
        .any(|other| other.lane == row.lane && other.link == *before);
    let there = state.tables.chain.get(&(row.lane, before.n));
    own || there.is_some_and(|there| there.link.batch == before.batch)
}

fn taken(state: &State, lock: &Lock) -> Option<Error> {
    match lock {
        Lock::Row(lane, n) => {
            let there = state.tables.chain.contains_key(&(*lane, *n));
            there.then(|| deposed("the row's place is taken"))
        }
        Lock::Key(key) => state.tables.keys.get(key).map(|(_, id)| key_taken(*id)),
    }
}

pub(super) fn deposed(detail: &str) -> Error {
    Error::Deposed {
        statement: "model",
        detail: detail.to_owned(),
    }
}

fn key_taken(id: ExecutionId) -> Error {
    Error::KeyTaken {
        statement: "model",
        detail: format!("by {id}"),
    }
}

/// Ends the transactions that hold rows of a lane which somebody takes over.
pub(super) fn end_who_blocks(model: &Model, lane: LaneId, xid: u64) {
    let blockers: Vec<u64> = {
        let state = model.state();
        let of_lane = |lock: &Lock| matches!(lock, Lock::Row(l, _) if *l == lane);
        let held = state
            .locks
            .iter()
            .filter(|(lock, holder)| of_lane(lock) && **holder != xid);
        held.map(|(_, holder)| *holder).collect()
    };
    for blocker in blockers {
        model
            .history
            .note(|| format!("db: transaction {blocker} is ended"));
        model.end(blocker);
    }
}
