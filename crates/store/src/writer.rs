use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::lane::{DatabaseIdentity, DueMark, InboxMark, Lane, Row, TimedEntry};
use domain::{Hour, LaneId, Micros};
use sqlx::AssertSqlSafe;

use crate::database::{Dedicated, Purpose};
use crate::{
    Batch, Database, Error, ExecutionPlace, InboxRead, KeptEntry, KnownKey, LaneLease, LastEnd,
    WindowMap,
};

/// What became of a commit whose answer was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// It was never committed and never will be: the empty row is in its place.
    Never,
    /// A row of the batch of this id is in its place.
    There(u128),
}

/// A connection for committing batches: made when it is needed, and made anew after an error.
pub struct Writer(Dedicated);

impl Writer {
    /// A writer that isn't connected yet.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self(Dedicated::new(database, Purpose::Writing))
    }

    /// The lane as its chain tells it, read and not taken: what memory is compared with.
    ///
    /// # Errors
    /// The database can't be read, or the chain doesn't make sense.
    pub async fn replay(&mut self, lane: LaneId) -> Result<Lane, Error> {
        let mut connection = self.0.take().await?;
        let memory = self.0.database.replay(&mut connection, lane).await?;
        self.0.put_back(connection);
        Ok(memory)
    }
}

/// What a lane group needs of the database: one writer, on a connection of its own.
#[async_trait]
pub trait WriteLanes: Send {
    /// Commits a batch, behind the fence of each of its lanes. To be run to its end, never cancelled.
    ///
    /// # Errors
    /// [`Error::Deposed`]: somebody else wrote to one of the lanes. [`Error::KeyTaken`]: some of its
    /// idempotency keys are known. [`Error::Blocked`]: somebody else's transaction is in the way. Whether
    /// anything was committed, [`Error::is_refusal`] tells.
    async fn commit(&mut self, windows: &WindowMap, batch: &Batch) -> Result<(), Error>;

    /// Finds out what became of a commit whose answer was lost, by inserting an empty row, `blank`, in the
    /// place of one of its rows: that waits for whatever is still under way, and then one of them is
    /// there for good.
    ///
    /// # Errors
    /// The database can't be reached, or the lane's chain has gone elsewhere.
    async fn settle(&mut self, windows: &WindowMap, blank: &Row) -> Result<Settled, Error>;

    /// The executions that idempotency keys name, with the fingerprints they were submitted with; of those
    /// keys that are known.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn known_keys(&mut self, keys: &[[u8; 16]]) -> Result<Vec<KnownKey>, Error>;

    /// Due entries of a lane after a mark and up to another, at most `limit`, in order.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn due_entries(
        &mut self,
        windows: &WindowMap,
        lane: LaneId,
        what: (DueMark, DueMark),
        limit: usize,
    ) -> Result<Vec<TimedEntry>, Error>;

    /// What a lane keeps apart that is due before an hour; at most `limit`, the earliest first.
    ///
    /// # Errors
    /// The database can't be read.
    async fn kept_due(
        &mut self,
        lane: LaneId,
        until: Hour,
        limit: usize,
    ) -> Result<Vec<KeptEntry>, Error>;

    /// How executions stand by their last outcomes; of those that have one.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn last_ends(
        &mut self,
        windows: &WindowMap,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastEnd>, Error>;

    /// Looks into the inboxes of lanes, each from its mark, for at most `limit` entries a lane; of those
    /// lanes whose marks go on.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn read_inbox(
        &mut self,
        windows: &WindowMap,
        lanes: &[(LaneId, InboxMark)],
        bounds: (Micros, usize),
    ) -> Result<Vec<InboxRead>, Error>;

    /// Takes a lane over under a lease that holds: replays its chain, and writes the rows that shut its
    /// old owner out. Waits for what the old owner has in flight.
    ///
    /// # Errors
    /// [`Error::LeaseOver`]; or the database can't be reached, the chain doesn't make sense, or the old
    /// owner keeps writing.
    async fn take_over(
        &mut self,
        lease: &LaneLease,
        identity: DatabaseIdentity,
        now: Micros,
    ) -> Result<Lane, Error>;
}

#[async_trait]
impl WriteLanes for Writer {
    async fn commit(&mut self, windows: &WindowMap, batch: &Batch) -> Result<(), Error> {
        let Some(at) = batch.rows.first().map(|row| row.at) else {
            return Ok(());
        };
        let (sql, arguments) = crate::commit::statement(windows, batch, at)?;
        let mut connection = self.0.take().await?;
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut connection);
        let done = self.0.database.timed("lane_commit", "insert", query).await;
        if done.as_ref().err().is_none_or(Error::is_refusal) {
            self.0.put_back(connection);
        }
        done.map(drop)
    }

    async fn settle(&mut self, windows: &WindowMap, blank: &Row) -> Result<Settled, Error> {
        let batch = Batch {
            rows: vec![blank.clone()],
            ..Batch::default()
        };
        match self.commit(windows, &batch).await {
            Ok(()) => return Ok(Settled::Never),
            Err(Error::Deposed { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut connection = self.0.take().await?;
        let database = &self.0.database;
        let there = database
            .batch_at(&mut connection, blank.lane, blank.link.n)
            .await?;
        self.0.put_back(connection);
        there.map(Settled::There).ok_or(Error::Deposed {
            statement: "settle",
            detail: format!("row {} is gone", blank.previous.n),
        })
    }

    async fn known_keys(&mut self, keys: &[[u8; 16]]) -> Result<Vec<KnownKey>, Error> {
        let mut connection = self.0.take().await?;
        let known = self.0.database.known_keys(&mut connection, keys).await?;
        self.0.put_back(connection);
        Ok(known)
    }

    async fn due_entries(
        &mut self,
        windows: &WindowMap,
        lane: LaneId,
        (after, upto): (DueMark, DueMark),
        limit: usize,
    ) -> Result<Vec<TimedEntry>, Error> {
        let mut connection = self.0.take().await?;
        let database = &self.0.database;
        let entries = database
            .due_entries(&mut connection, windows, (lane, after, upto), limit)
            .await?;
        self.0.put_back(connection);
        Ok(entries)
    }

    async fn kept_due(
        &mut self,
        lane: LaneId,
        until: Hour,
        limit: usize,
    ) -> Result<Vec<KeptEntry>, Error> {
        let mut connection = self.0.take().await?;
        let database = &self.0.database;
        let kept = database
            .kept_due(&mut connection, lane, until, limit)
            .await?;
        self.0.put_back(connection);
        Ok(kept)
    }

    async fn last_ends(
        &mut self,
        windows: &WindowMap,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastEnd>, Error> {
        let mut connection = self.0.take().await?;
        let database = &self.0.database;
        let ends = database.last_ends(&mut connection, windows, places).await?;
        self.0.put_back(connection);
        Ok(ends)
    }

    async fn read_inbox(
        &mut self,
        windows: &WindowMap,
        lanes: &[(LaneId, InboxMark)],
        bounds: (Micros, usize),
    ) -> Result<Vec<InboxRead>, Error> {
        let mut connection = self.0.take().await?;
        let database = &self.0.database;
        let reads = database
            .read_inbox(&mut connection, windows, lanes, bounds)
            .await?;
        self.0.put_back(connection);
        Ok(reads)
    }

    async fn take_over(
        &mut self,
        lease: &LaneLease,
        identity: DatabaseIdentity,
        now: Micros,
    ) -> Result<Lane, Error> {
        let mut connection = self.0.take().await?;
        let memory = self
            .0
            .database
            .take_over(&mut connection, lease, (identity, now))
            .await?;
        self.0.put_back(connection);
        Ok(memory)
    }
}
