//! What a list shows of executions, by where they are: what was submitted, without what only handlers need,
//! and the last outcome.

use std::collections::{BTreeMap, BTreeSet};

use domain::lane::CheckpointMark;
use domain::{ExecutionState, Hour, LaneId, Micros, Priority};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::chain::as_stored;
use crate::execution::{Pairs, boxed, from_json, inconsistent, optional_time, places};
use crate::lane_lease::{lane_id, number};
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, StoredAttempt, WindowMap};

/// Where an execution's rows are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExecutionPlace {
    /// Its lane.
    pub lane: LaneId,
    /// Its number there.
    pub seq: u64,
    /// Its home hour.
    pub home: Hour,
}

/// What a submission says, as far as lists show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedHead {
    /// The tenant's number.
    pub tenant: i32,
    /// The queue's number.
    pub queue: i32,
    /// The job type's number.
    pub job_type: i32,
    /// How urgent.
    pub priority: Priority,
    /// When it was accepted.
    pub accepted: Micros,
    /// When it is due, if that is later.
    pub due: Option<Micros>,
    /// The caller's id.
    pub correlation_id: Option<Box<str>>,
    /// What people filter by.
    pub labels: Pairs,
}

/// An execution's last outcome, as far as it tells where the execution stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastOutcome {
    /// Its claim's number.
    pub fence: u64,
    /// What it made of the execution.
    pub state: ExecutionState,
    /// `domain::Reason` as stored.
    pub reason: i16,
    /// Counts from 1.
    pub attempt: i16,
    /// When it was recorded.
    pub at: Micros,
    /// When next.
    pub next_at: Option<Micros>,
}

impl LastOutcome {
    /// Whether it may have put the execution in the line where it is since `since`.
    #[must_use]
    pub fn is_before(&self, since: Micros) -> bool {
        !self.state.is_final() && self.at <= since
    }
}

impl From<&StoredAttempt> for LastOutcome {
    fn from(attempt: &StoredAttempt) -> Self {
        Self {
            fence: attempt.fence,
            state: attempt.state,
            reason: attempt.reason,
            attempt: attempt.attempt,
            at: attempt.at,
            next_at: attempt.next_at,
        }
    }
}

/// How an execution that is over stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastEnd {
    /// Its last outcome.
    pub last: LastOutcome,
    /// What was submitted is kept apart, beyond its window.
    pub is_kept: bool,
    /// Its last checkpoint.
    pub saved: Option<CheckpointMark>,
}

/// Looks executions up, each in all the tables that its row may be in.
pub(crate) fn by_place_sql(tables: &[&str], look_up: impl Fn(&str) -> String) -> String {
    let looks: Vec<String> = tables.iter().map(|table| look_up(table)).collect();
    format!(
        "select r.* from unnest($1::int2[], $2::int8[], $3::int4[]) u (lane, seq, win)
         cross join lateral ({}) r",
        looks.join(" union all ")
    )
}

/// LIMIT keeps the look-up of each execution a look-up, whatever plan the statistics suggest.
fn head_sql(table: &str) -> String {
    format!(
        "(select r.lane, r.seq, r.tenant, r.queue, r.job_type, r.priority, r.at, r.due_at,
             r.correlation_id, r.labels::text from {table} r
         where r.lane = u.lane and r.seq = u.seq and r.win = u.win limit 1)"
    )
}

fn last_outcome_sql(table: &str) -> String {
    format!(
        "(select r.lane, r.seq, r.fence, r.state, r.reason, r.attempt, r.at, r.next_at from {table} r
         where r.lane = u.lane and r.seq = u.seq and r.win = u.win order by r.fence desc limit 1)"
    )
}

impl Database {
    pub(crate) async fn select_heads(
        &self,
        windows: &WindowMap,
        tenant: i32,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), ListedHead>, Error> {
        let mut reader = self.read_for(tenant).await?;
        let mut heads = BTreeMap::new();
        for (tables, places) in by_tables(windows, Table::Execution, places) {
            let sql = by_place_sql(&tables, head_sql);
            for row in self
                .look_up(&mut reader, "listed_heads", sql, &places)
                .await?
            {
                heads.insert(read_key(&row)?, read_head(&row)?);
            }
        }
        Ok(heads)
    }

    pub(crate) async fn select_last_outcomes(
        &self,
        windows: &WindowMap,
        tenant: i32,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastOutcome>, Error> {
        let mut reader = self.read_for(tenant).await?;
        self.last_by_place(&mut reader, windows, places).await
    }

    async fn last_by_place(
        &self,
        connection: &mut PgConnection,
        windows: &WindowMap,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastOutcome>, Error> {
        let mut last: BTreeMap<(LaneId, u64), LastOutcome> = BTreeMap::new();
        for (tables, places) in by_tables(windows, Table::Outcome, places) {
            let sql = by_place_sql(&tables, last_outcome_sql);
            let rows = self.look_up(&mut *connection, "last_outcomes", sql, &places);
            for row in rows.await? {
                let outcome = read_outcome(&row)?;
                let known = last.entry(read_key(&row)?).or_insert(outcome);
                if outcome.fence > known.fence {
                    *known = outcome;
                }
            }
        }
        Ok(last)
    }

    /// How executions stand that are over, as their lanes' writer reads it.
    pub(crate) async fn last_ends(
        &self,
        connection: &mut PgConnection,
        windows: &WindowMap,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastEnd>, Error> {
        let last = self.last_by_place(connection, windows, places).await?;
        let sql = by_place_sql(&["kept_execution"], |table| {
            format!(
                "(select r.lane, r.seq from {table} r
                 where r.lane = u.lane and r.seq = u.seq and r.win = u.win limit 1)"
            )
        });
        let rows = self.look_up(&mut *connection, "executions_kept", sql, places);
        let kept = rows.await?;
        let saved = self.select_last_marks(connection, windows, places).await?;
        let kept: BTreeSet<(LaneId, u64)> = kept.iter().map(read_key).collect::<Result<_, _>>()?;
        let ends = last.into_iter().map(|(key, last)| {
            let end = LastEnd {
                last,
                is_kept: kept.contains(&key),
                saved: saved.get(&key).copied(),
            };
            (key, end)
        });
        Ok(ends.collect())
    }

    pub(crate) async fn look_up(
        &self,
        reader: &mut PgConnection,
        name: &'static str,
        sql: String,
        places: &[ExecutionPlace],
    ) -> Result<Vec<PgRow>, Error> {
        let lanes: Vec<i16> = places.iter().map(|place| number(place.lane)).collect();
        let seqs: Vec<i64> = places.iter().map(|place| as_stored(place.seq)).collect();
        let homes: Vec<i32> = places.iter().map(|place| place.home.0).collect();
        let statement = sqlx::query(AssertSqlSafe(sql))
            .bind(lanes)
            .bind(seqs)
            .bind(homes)
            .fetch_all(reader);
        self.timed(name, "select", statement).await
    }
}

/// Executions by the tables in which their rows may be. All tables of one are read by one statement: a row
/// that moves from one to another meanwhile is in one of them.
pub(crate) fn by_tables<'a>(
    windows: &'a WindowMap,
    table: Table,
    all: &[ExecutionPlace],
) -> BTreeMap<Vec<&'a str>, Vec<ExecutionPlace>> {
    let mut groups: BTreeMap<Vec<&str>, Vec<ExecutionPlace>> = BTreeMap::new();
    for place in all {
        let tables = places(windows, table, place.home).collect();
        groups.entry(tables).or_default().push(*place);
    }
    groups
}

pub(crate) fn read_key(row: &PgRow) -> Result<(LaneId, u64), Error> {
    let read = Error::of("listed_key");
    let seq: i64 = row.try_get(1).map_err(&read)?;
    let lane = lane_id(row.try_get(0).map_err(&read)?);
    Ok((lane, u64::try_from(seq).unwrap_or(0)))
}

fn read_head(row: &PgRow) -> Result<ListedHead, Error> {
    let read = Error::of("listed_heads");
    let priority: i16 = row.try_get(5).map_err(&read)?;
    let priority = Priority::from_number(i32::from(priority))
        .ok_or_else(|| inconsistent("execution", format!("priority {priority}")))?;
    Ok(ListedHead {
        tenant: row.try_get(2).map_err(&read)?,
        queue: row.try_get(3).map_err(&read)?,
        job_type: row.try_get(4).map_err(&read)?,
        priority,
        accepted: row.try_get::<Timestamp, _>(6).map_err(&read)?.0,
        due: optional_time(row.try_get(7).map_err(&read)?),
        correlation_id: boxed(row.try_get(8).map_err(&read)?),
        labels: from_json(row.try_get(9).map_err(&read)?),
    })
}

fn read_outcome(row: &PgRow) -> Result<LastOutcome, Error> {
    let read = Error::of("last_outcomes");
    let fence: i64 = row.try_get(2).map_err(&read)?;
    let state: i16 = row.try_get(3).map_err(&read)?;
    let state = ExecutionState::from_number(state)
        .ok_or_else(|| inconsistent("outcome", format!("fence {fence}: state {state}")))?;
    Ok(LastOutcome {
        fence: u64::try_from(fence).unwrap_or(0),
        state,
        reason: row.try_get(4).map_err(&read)?,
        attempt: row.try_get(5).map_err(&read)?,
        at: row.try_get::<Timestamp, _>(6).map_err(&read)?.0,
        next_at: optional_time(row.try_get(7).map_err(&read)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::Plans;

    #[tokio::test]
    async fn what_a_list_shows_is_looked_up_one_by_one_whatever_the_statistics_say() {
        let plans = Plans::new().await;
        let hour = plans.term.now().hour();
        let beyond_all_windows = Hour(hour.0 + 1_000);
        let sql = |table: Table, tables: &[&str]| match table {
            Table::Execution => by_place_sql(tables, head_sql),
            _ => by_place_sql(tables, last_outcome_sql),
        };
        for table in [Table::Execution, Table::Outcome] {
            for (home, count) in [(hour, 2), (beyond_all_windows, 1)] {
                let tables: Vec<&str> = places(&plans.windows, table, home).collect();
                let sql = sql(table, &tables);
                let plan = plans
                    .of_reader("int2[], int8[], int4[]", &sql, "'{1}', '{1}', '{1}'")
                    .await;
                let probe = "Index Cond: ((lane = u.lane) AND (seq = u.seq) AND (win = u.win))";
                assert_eq!(plan.matches(probe).count(), count, "{plan}");
                assert!(!plan.contains("Sort"), "{plan}");
            }
        }
    }
}
