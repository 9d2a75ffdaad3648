//! How windows go, a lane's part: what is still needed of one is copied to where it outlives the window, and
//! that the lane needs it no more is said. Copies need no fence: the rows never change, and a second copy is
//! the same as the first.
//!
//! The database may have lost its last changes without the owner's knowing yet. So a word counts only where the
//! row is there that the owner goes by, and copies and the word on them come over one connection, which no
//! such change outlives.

use async_trait::async_trait;
use domain::lane::{DueMark, Link};
use domain::{Hour, HourRange, LaneId};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryScalar;
use sqlx::{AssertSqlSafe, Postgres};
use uuid::Uuid;

use crate::chain::as_stored;
use crate::lane_lease::{lane_id, number};
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, WindowMap};

/// Executions that are copied at a time.
const PAGE: usize = 1_000;

/// A lane that turns away from a window.
#[derive(Clone, Debug)]
pub struct Departure {
    /// Which lane.
    pub lane: LaneId,
    /// The homes whose executions and outcomes are about to go.
    pub window: HourRange,
    /// The lane's last row: it has said before that nothing more is written there.
    pub row: Link,
    /// How far its due entries are in memory.
    pub due_read: DueMark,
    /// The open executions of these homes that memory knows, by number.
    pub open: Vec<u64>,
}

/// What became of a carry-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CarriedOver {
    /// So many executions were copied, and the lane has let go of the window.
    All(usize),
    /// There are more than may be.
    TooMuch,
    /// The database doesn't know the lane's last row, or doesn't wait for the lane: nothing was let go of.
    Unasked,
}

/// That a lane needs nothing of a window any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LetGo {
    /// Which lane.
    pub lane: LaneId,
    /// Of which table.
    pub table: Table,
    /// Its hours.
    pub window: HourRange,
    /// The lane's last row.
    pub row: Link,
}

/// What lanes do so that windows can go.
#[async_trait]
pub trait CarryOver: Send + Sync {
    /// Copies the executions of a window that a lane still needs, and the outcomes of their attempts, to where
    /// they outlive it, and notes that the lane needs nothing else there: those that are open, in memory or in
    /// the `due` table, and failures and dead letters of queues that keep such longer than the window stays.
    /// With more than `most`, none.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn carry_over(
        &self,
        windows: &WindowMap,
        departure: Departure,
        most: usize,
    ) -> Result<CarriedOver, Error>;

    /// Notes that lanes need nothing of some windows any more; gives those of which it is noted. Of the others
    /// the database doesn't know the row, or not that the window is to go, or, of the chain, no snapshot beyond.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn note_let_go(&self, facts: &[LetGo]) -> Result<Vec<LetGo>, Error>;

    /// Of which windows, by table and first hour, it is noted that some lanes need nothing any more.
    ///
    /// # Errors
    /// The database can't be read.
    async fn noted_let_go(&self, lanes: &[LaneId]) -> Result<Vec<(LaneId, Table, Hour)>, Error>;
}

#[async_trait]
impl CarryOver for Database {
    async fn carry_over(
        &self,
        windows: &WindowMap,
        departure: Departure,
        most: usize,
    ) -> Result<CarriedOver, Error> {
        let mut connection = self.pool.acquire().await.map_err(Error::of("carry_over"))?;
        let mut session = Session {
            database: self,
            connection: &mut connection,
            windows,
            departure: &departure,
        };
        let mut needed = departure.open.clone();
        // One more than may be, so that what was cut off is seen to be too much.
        needed.extend(session.waiting_far(most + 1).await?);
        needed.extend(session.lasting_failures(most + 1).await?);
        needed.sort_unstable();
        needed.dedup();
        if needed.len() > most {
            return Ok(CarriedOver::TooMuch);
        }
        for page in needed.chunks(PAGE) {
            session.copy(page).await?;
        }
        let facts = departure.words();
        let told = self.tell(&mut connection, &facts).await?;
        match told.len() == facts.len() {
            true => Ok(CarriedOver::All(needed.len())),
            false => Ok(CarriedOver::Unasked),
        }
    }

    async fn note_let_go(&self, facts: &[LetGo]) -> Result<Vec<LetGo>, Error> {
        let mut connection = self.pool.acquire().await.map_err(Error::of("let_go"))?;
        self.tell(&mut connection, facts).await
    }

    async fn noted_let_go(&self, lanes: &[LaneId]) -> Result<Vec<(LaneId, Table, Hour)>, Error> {
        const SELECT: &str = "select lane, table_name, from_hour from let_go where lane = any($1)";
        let lanes: Vec<i16> = lanes.iter().copied().map(number).collect();
        let statement = sqlx::query_as(SELECT).bind(lanes).fetch_all(&self.pool);
        let rows: Vec<(i16, String, i32)> = self.timed("let_go_read", "select", statement).await?;
        let noted = rows.into_iter().filter_map(|(lane, table, from)| {
            let table = Table::ALL.into_iter().find(|of| of.name() == table)?;
            Some((lane_id(lane), table, Hour(from)))
        });
        Ok(noted.collect())
    }
}

impl Departure {
    /// The tables whose windows go together, by the home of executions.
    pub const TABLES: [Table; 3] = [Table::Execution, Table::Outcome, Table::Checkpoint];

    /// What the lane lets go of by it.
    #[must_use]
    pub fn words(&self) -> [LetGo; 3] {
        Self::TABLES.map(|table| LetGo {
            lane: self.lane,
            table,
            window: self.window,
            row: self.row,
        })
    }
}

impl Database {
    async fn tell(
        &self,
        connection: &mut PgConnection,
        facts: &[LetGo],
    ) -> Result<Vec<LetGo>, Error> {
        const INSERT: &str = r#"with true_fact as (
                 select f.place, f.lane, f.table_name, f.from_hour
                 from unnest($1::int2[], $2::text[], $3::int4[], $4::int8[], $5::uuid[], $6::int8[])
                     with ordinality f (lane, table_name, from_hour, n, batch, beyond, place)
                 where exists (select from "window" w where w.table_name = f.table_name
                         and w.from_hour = f.from_hour and w.state = 3)
                     and exists (select from chain c
                         where c.lane = f.lane and c.n = f.n and c.batch = f.batch)
                     and (f.table_name <> 'chain' or exists (select from lane_snapshot s
                         where s.lane = f.lane and s.n >= f.beyond))),
             told as (
                 insert into let_go (lane, table_name, from_hour)
                 select lane, table_name, from_hour from true_fact on conflict do nothing)
             select place from true_fact"#;
        let lanes: Vec<i16> = facts.iter().map(|fact| number(fact.lane)).collect();
        let tables: Vec<&str> = facts.iter().map(|fact| fact.table.name()).collect();
        let hours: Vec<i32> = facts.iter().map(|fact| fact.window.from.0).collect();
        let rows: Vec<i64> = facts.iter().map(|fact| as_stored(fact.row.n)).collect();
        let batches = facts.iter().map(|fact| Uuid::from_u128(fact.row.batch));
        let ends: Vec<i64> = facts.iter().map(|f| f.window.to.start().0).collect();
        let statement = sqlx::query_scalar(INSERT)
            .bind(lanes)
            .bind(tables)
            .bind(hours)
            .bind(rows)
            .bind(batches.collect::<Vec<Uuid>>())
            .bind(ends)
            .fetch_all(connection);
        let told: Vec<i64> = self.timed("let_go", "insert", statement).await?;
        let told = told
            .into_iter()
            .filter_map(|place| usize::try_from(place).ok()?.checked_sub(1));
        Ok(told.filter_map(|place| facts.get(place).copied()).collect())
    }
}

/// One lane's carry-over, over one connection.
struct Session<'a> {
    database: &'a Database,
    connection: &'a mut PgConnection,
    windows: &'a WindowMap,
    departure: &'a Departure,
}

impl Session<'_> {
    /// Executions that wait beyond what memory knows of the `due` table, by number; at most `limit`.
    async fn waiting_far(&mut self, limit: usize) -> Result<Vec<u64>, Error> {
        let after = self.departure.due_read;
        let mut waiting = Vec::new();
        for leaf in self
            .windows
            .leaves(Table::Due, after.due.hour(), Hour(i32::MAX))
        {
            let sql = format!(
                "select seq from {leaf} where lane = $1 and home >= $2 and home < $3
                     and (due_at, seq) > ($5, $6) order by due_at, seq limit $4"
            );
            let statement = self
                .select(sql, limit - waiting.len())
                .bind(Timestamp(after.due))
                .bind(as_stored(after.seq))
                .fetch_all(&mut *self.connection);
            let seqs: Vec<i64> = self
                .database
                .timed("waiting_far", "select", statement)
                .await?;
            waiting.extend(seqs.into_iter().map(as_number));
        }
        Ok(waiting)
    }

    /// Executions that failed or are dead letters, of queues which keep such longer than the window stays, by
    /// number; at most `limit`.
    async fn lasting_failures(&mut self, limit: usize) -> Result<Vec<u64>, Error> {
        let mut failures = Vec::new();
        for leaf in leaves_of(self.windows, Table::Outcome, self.departure.window) {
            // One that was tried again since has other rows beside these; it is kept as well.
            let sql = format!(
                "select o.seq from queue q cross join lateral (
                     select o.seq from {leaf} o where o.queue = q.number and o.state in (7, 8)
                         and o.at > clock_timestamp() - q.failures_hours * interval '1 hour'
                         and o.lane = $1 and o.win >= $2 and o.win < $3
                 ) o where q.failures_hours > 0 and $1 = any(q.lanes) limit $4"
            );
            let statement = self
                .select(sql, limit - failures.len())
                .fetch_all(&mut *self.connection);
            let seqs: Vec<i64> = self
                .database
                .timed("lasting_failures", "select", statement)
                .await?;
            failures.extend(seqs.into_iter().map(as_number));
        }
        Ok(failures)
    }

    /// A statement on the lane's part of the window: $1 is the lane, $2 and $3 its homes, $4 the limit.
    fn select(
        &self,
        sql: String,
        limit: usize,
    ) -> QueryScalar<'static, Postgres, i64, PgArguments> {
        let Departure { lane, window, .. } = self.departure;
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(number(*lane))
            .bind(window.from.0)
            .bind(window.to.0)
            .bind(as_stored(limit as u64))
    }

    async fn copy(&mut self, seqs: &[u64]) -> Result<(), Error> {
        let asked: Vec<i64> = seqs.iter().copied().map(as_stored).collect();
        for table in Departure::TABLES {
            let leaves = leaves_of(self.windows, table, self.departure.window);
            for leaf in leaves.map(str::to_owned).collect::<Vec<_>>() {
                self.copy_from(table, &leaf, &asked).await?;
            }
        }
        Ok(())
    }

    async fn copy_from(&mut self, table: Table, leaf: &str, seqs: &[i64]) -> Result<(), Error> {
        let Departure { lane, window, .. } = self.departure;
        let Some(kept) = table.kept() else {
            return Ok(());
        };
        // Of what was saved only the last is ever read. OFFSET 0 keeps the look-up of each number a look-up.
        let which = match table {
            Table::Checkpoint => "order by r.fence desc, r.number desc limit 1",
            _ => "offset 0",
        };
        let sql = format!(
            "insert into {kept} select r.* from unnest($2::int8[]) s (seq)
             cross join lateral (select * from {leaf} r
                 where r.lane = $1 and r.seq = s.seq and r.win >= $3 and r.win < $4 {which}) r
             on conflict do nothing"
        );
        let statement = sqlx::query(AssertSqlSafe(sql))
            .bind(number(*lane))
            .bind(seqs)
            .bind(window.from.0)
            .bind(window.to.0)
            .execute(&mut *self.connection);
        let copied = self.database.timed("carry_over", "insert", statement);
        copied.await.map(drop)
    }
}

fn leaves_of(windows: &WindowMap, table: Table, window: HourRange) -> impl Iterator<Item = &str> {
    windows.leaves(table, window.from, Hour(window.to.0 - 1))
}

fn as_number(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}
