//! How windows go, a lane's part: what is still needed of one is copied to where it outlives the window.
//! Copies need no fence: the rows never change, and a second copy is the same as the first.

use async_trait::async_trait;
use domain::lane::DueMark;
use domain::{Hour, HourRange, LaneId};
use sqlx::AssertSqlSafe;

use crate::chain::as_stored;
use crate::lane_lease::number;
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, WindowMap};

/// What lanes do so that windows can go.
#[async_trait]
pub trait CarryOver: Send + Sync {
    /// Executions of a lane with homes in a window that wait beyond a mark of the `due` table, by number; at
    /// most `limit`.
    ///
    /// # Errors
    /// The database can't be read.
    async fn waiting_far(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        what: (HourRange, DueMark),
        limit: usize,
    ) -> Result<Vec<u64>, Error>;

    /// Executions of a lane with homes in a window that failed or are dead letters, of queues which keep
    /// such longer than the window stays, by number; at most `limit`.
    ///
    /// # Errors
    /// The database can't be read.
    async fn lasting_failures(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        window: HourRange,
        limit: usize,
    ) -> Result<Vec<u64>, Error>;

    /// Copies executions of a lane with homes in a window, and the outcomes of their attempts, to where they
    /// outlive it.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn carry_over(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        what: (HourRange, &[u64]),
    ) -> Result<(), Error>;

    /// Notes that lanes need nothing of some windows any more.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn note_let_go(&self, facts: &[(LaneId, Table, Hour)]) -> Result<(), Error>;
}

#[async_trait]
impl CarryOver for Database {
    async fn waiting_far(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        (window, after): (HourRange, DueMark),
        limit: usize,
    ) -> Result<Vec<u64>, Error> {
        let mut waiting = Vec::new();
        for leaf in windows.leaves(Table::Due, after.due.hour(), Hour(i32::MAX)) {
            let sql = format!(
                "select seq from {leaf} where lane = $1 and (due_at, seq) > ($2, $3)
                     and home >= $4 and home < $5 order by due_at, seq limit $6"
            );
            let statement = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(Timestamp(after.due))
                .bind(as_stored(after.seq))
                .bind(window.from.0)
                .bind(window.to.0)
                .bind(as_stored((limit - waiting.len()) as u64))
                .fetch_all(&self.pool);
            let seqs: Vec<i64> = self.timed("waiting_far", "select", statement).await?;
            waiting.extend(seqs.into_iter().map(as_number));
        }
        Ok(waiting)
    }

    async fn lasting_failures(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        window: HourRange,
        limit: usize,
    ) -> Result<Vec<u64>, Error> {
        let mut failures = Vec::new();
        for leaf in outcome_leaves(windows, window) {
            // One that was tried again since has other rows beside these; it is kept as well.
            let sql = format!(
                "select o.seq from queue q cross join lateral (
                     select o.seq from {leaf} o where o.queue = q.number and o.state in (7, 8)
                         and o.at > clock_timestamp() - q.failures_hours * interval '1 hour'
                         and o.lane = $1 and o.win >= $2 and o.win < $3
                 ) o where q.failures_hours > 0 and $1 = any(q.lanes) limit $4"
            );
            let statement = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(window.from.0)
                .bind(window.to.0)
                .bind(as_stored((limit - failures.len()) as u64))
                .fetch_all(&self.pool);
            let seqs: Vec<i64> = self.timed("lasting_failures", "select", statement).await?;
            failures.extend(seqs.into_iter().map(as_number));
        }
        Ok(failures)
    }

    async fn carry_over(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        (window, seqs): (HourRange, &[u64]),
    ) -> Result<(), Error> {
        let last = Hour(window.to.0 - 1);
        let executions = windows.leaves(Table::Execution, window.from, last);
        let executions = executions.map(|leaf| (leaf, "kept_execution"));
        let outcomes = outcome_leaves(windows, window).map(|leaf| (leaf, "kept_outcome"));
        let asked: Vec<i64> = seqs.iter().copied().map(as_stored).collect();
        for (leaf, kept) in executions.chain(outcomes) {
            let sql = format!(
                "insert into {kept} select r.* from unnest($2::int8[]) s (seq)
                 cross join lateral (select * from {leaf} r
                     where r.lane = $1 and r.seq = s.seq and r.win >= $3 and r.win < $4 offset 0) r
                 on conflict do nothing"
            );
            let statement = sqlx::query(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(&asked)
                .bind(window.from.0)
                .bind(window.to.0)
                .execute(&self.pool);
            self.timed("carry_over", "insert", statement).await?;
        }
        Ok(())
    }

    async fn note_let_go(&self, facts: &[(LaneId, Table, Hour)]) -> Result<(), Error> {
        const INSERT: &str = "insert into let_go (lane, table_name, from_hour)
             select * from unnest($1::int2[], $2::text[], $3::int4[]) on conflict do nothing";
        let lanes: Vec<i16> = facts.iter().map(|(lane, _, _)| number(*lane)).collect();
        let tables: Vec<&str> = facts.iter().map(|(_, table, _)| table.name()).collect();
        let hours: Vec<i32> = facts.iter().map(|(_, _, from)| from.0).collect();
        let statement = sqlx::query(INSERT)
            .bind(lanes)
            .bind(tables)
            .bind(hours)
            .execute(&self.pool);
        self.timed("let_go", "insert", statement).await?;
        Ok(())
    }
}

fn outcome_leaves(windows: &WindowMap, window: HourRange) -> impl Iterator<Item = &str> {
    windows.leaves(Table::Outcome, window.from, Hour(window.to.0 - 1))
}

fn as_number(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}
