//! Executions, read: their heads for dispatch, and the whole of one for people.

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::lane::{CheckpointMark, Class, DueMark, Span, StoredPage, TimedEntry, Wait};
use domain::{Budgets, ExecutionState, Hour, Items, LaneId, Micros, Priority, Progress, Reason};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::batch::{KeptEntry, Place};
use crate::chain::as_stored;
use crate::checkpoint::{StoredCheckpoint, read_progress};
use crate::lane_lease::number;
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, ExecutionPlace, WindowMap};

/// Names and values, sorted: labels or headers.
pub type Pairs = BTreeMap<String, String>;

/// What a submission says, as its row holds it.
#[derive(Clone, Debug)]
pub struct Head {
    /// The tenant's number.
    pub tenant: i32,
    /// The queue's number.
    pub queue: i32,
    /// The job type's number.
    pub job_type: i32,
    /// How urgent.
    pub priority: Priority,
    /// When it was accepted. Not written from here: the row takes its batch's time.
    pub accepted: Micros,
    /// When it is due, if that is later.
    pub due: Option<Micros>,
    /// How long an attempt may run.
    pub timeout: Duration,
    /// The retry policy's number.
    pub retry_policy: i32,
    /// Trace id, the gateway's span id, flags.
    pub trace: Option<[u8; 25]>,
    /// The client's span id.
    pub parent_span: Option<[u8; 8]>,
    /// When the request came, by the gateway's clock.
    pub request_at: Option<Micros>,
    /// W3C tracestate.
    pub tracestate: Option<Box<str>>,
    /// The caller's id.
    pub correlation_id: Option<Box<str>>,
    /// What people filter by.
    pub labels: Pairs,
    /// What goes to the handler beside the payload.
    pub headers: Pairs,
    /// What the handler gets.
    pub payload: Bytes,
    /// Its media type.
    pub content_type: Option<Box<str>>,
}

/// An execution on its way to its row.
#[derive(Clone, Debug)]
pub struct NewExecution {
    /// Its lane.
    pub lane: LaneId,
    /// Its number.
    pub seq: u64,
    /// Its home hour.
    pub home: Hour,
    /// What it is.
    pub head: Arc<Head>,
    /// Where its row goes.
    pub place: Place,
}

/// One attempt, as its outcome row tells it.
#[derive(Clone, Debug)]
pub struct StoredAttempt {
    /// Counts from 1.
    pub attempt: i16,
    /// Its claim's number.
    pub fence: u64,
    /// `domain::AttemptResult` as stored.
    pub result: i16,
    /// What it made of the execution.
    pub state: ExecutionState,
    /// `domain::Reason` as stored.
    pub reason: i16,
    /// Who ran it.
    pub worker: String,
    /// When it was claimed.
    pub claimed: Micros,
    /// Enqueued to claimed, claimed to begun, run time, end to recorded; in microseconds.
    pub phases_us: [i64; 4],
    /// When it was recorded.
    pub at: Micros,
    /// When next.
    pub next_at: Option<Micros>,
    /// The error's class.
    pub error_class: Option<String>,
    /// The error's text.
    pub error_message: Option<String>,
    /// What the handler returned.
    pub output: Option<Vec<u8>>,
    /// Its media type.
    pub output_type: Option<String>,
    /// Whether the trace is kept.
    pub trace_kept: bool,
    /// What was used up by then.
    pub budgets: Budgets,
    /// What its handler counted.
    pub items: Items,
    /// How far it was.
    pub progress: Option<Progress>,
}

/// An execution as its rows tell it.
#[derive(Clone, Debug)]
pub struct StoredExecution {
    /// What was submitted.
    pub head: Head,
    /// Its attempts, oldest first.
    pub attempts: Vec<StoredAttempt>,
}

const HEAD_COLUMNS: &str = "e.seq, e.tenant, e.queue, e.job_type, e.priority, e.at, e.timeout_us,
    e.retry_policy, e.trace, e.parent_span, e.request_at, e.tracestate, e.correlation_id,
    e.labels::text, e.headers::text, e.payload, e.content_type, e.due_at";

impl Database {
    /// Those of a window that is on its way out are in two places: what was carried over may be in both.
    async fn attempts(
        &self,
        reader: &mut PgConnection,
        windows: &WindowMap,
        ExecutionPlace { lane, seq, home }: ExecutionPlace,
        kept: bool,
    ) -> Result<Vec<StoredAttempt>, Error> {
        let mut attempts: Vec<StoredAttempt> = Vec::new();
        let leaf = windows.leaf(Table::Outcome, home).ok();
        for table in leaf
            .into_iter()
            .chain(Table::Outcome.kept().filter(|_| kept))
        {
            let sql = format!(
                "select attempt, fence, result, state, reason, worker, claimed_at, queued_us,
                     dispatch_us, run_us, report_us, at, next_at, error_class, error_message, output,
                     output_type, trace_kept, attempts_used, lost_used, items_success, items_failed,
                     items_skipped, progress_done, progress_total, progress_note
                 from {table} where lane = $1 and seq = $2 and win = $3 order by fence"
            );
            let statement = sqlx::query(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(as_stored(seq))
                .bind(home.0)
                .fetch_all(&mut *reader);
            let rows = self
                .timed("execution_outcomes", "select", statement)
                .await?;
            for row in &rows {
                attempts.push(read_attempt(row)?);
            }
        }
        attempts.sort_by_key(|attempt| attempt.fence);
        attempts.dedup_by_key(|attempt| attempt.fence);
        Ok(attempts)
    }

    /// Due entries of a lane after a mark and up to another, at most `limit`, in order.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    pub(crate) async fn due_entries(
        &self,
        connection: &mut PgConnection,
        windows: &WindowMap,
        (lane, after, upto): (LaneId, DueMark, DueMark),
        limit: usize,
    ) -> Result<Vec<TimedEntry>, Error> {
        let mut entries = Vec::new();
        for leaf in windows.leaves(Table::Due, after.due.hour(), upto.due.hour()) {
            let sql = format!(
                "select due_at, seq, home, tenant, queue, priority, job_type, attempts, lost, wait
                 from {leaf} where lane = $1 and (due_at, seq) > ($2, $3) and (due_at, seq) <= ($4, $5)
                 order by due_at, seq limit $6"
            );
            let statement = sqlx::query(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(Timestamp(after.due))
                .bind(as_stored(after.seq))
                .bind(Timestamp(upto.due))
                .bind(as_stored(upto.seq))
                .bind(as_stored((limit - entries.len()) as u64))
                .fetch_all(&mut *connection);
            let rows = self.timed("due_read", "select", statement).await?;
            for row in &rows {
                entries.push(read_due(row)?);
            }
            if entries.len() >= limit {
                break;
            }
        }
        Ok(entries)
    }
}

/// Executions, read by where their ids say they are.
#[async_trait]
pub trait ReadExecutions: Send + Sync {
    /// The heads of executions of a lane and a home hour; of those that are there, in the order asked for,
    /// until their payloads make up `bytes`. The first comes however large it is.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn heads(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: Hour,
        what: (&[u64], u64),
    ) -> Result<Vec<(u64, Head)>, Error>;

    /// When executions of a lane and a home hour were run again last, by somebody's hand; of those that were.
    ///
    /// # Errors
    /// The database can't be read.
    async fn reopened(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: Hour,
        seqs: &[u64],
    ) -> Result<Vec<(u64, Micros)>, Error>;

    /// The states of checkpoints of executions of a lane and a home hour, as the chain names them; of those that
    /// are there, in the order asked for, until they make up `bytes`. The first comes however large it is.
    ///
    /// # Errors
    /// The database can't be read.
    async fn states(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: Hour,
        what: (&[(u64, CheckpointMark)], u64),
    ) -> Result<Vec<(u64, Bytes)>, Error>;

    /// The executions of a class in a span of numbers that were accepted for at once, whatever became of them.
    /// Looks at so many rows of the span, of whichever class: so there may be more of them.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn stored(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        what: (Class, Span),
        rows: usize,
    ) -> Result<StoredPage, Error>;

    /// One execution of a tenant with its attempts, by where its id says it is.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn execution(
        &self,
        windows: &WindowMap,
        tenant: i32,
        place: ExecutionPlace,
    ) -> Result<Option<StoredExecution>, Error>;

    /// The last that the handler of a tenant's execution saved.
    ///
    /// # Errors
    /// The database can't be read.
    async fn last_checkpoint(
        &self,
        windows: &WindowMap,
        tenant: i32,
        place: ExecutionPlace,
    ) -> Result<Option<StoredCheckpoint>, Error>;

    /// Whether a tenant's execution waits for a time in the tables. One that came through the inbox doesn't
    /// until its lane's owner has read it.
    ///
    /// # Errors
    /// The database can't be read.
    async fn is_tabled(
        &self,
        windows: &WindowMap,
        tenant: i32,
        lane: LaneId,
        mark: DueMark,
    ) -> Result<bool, Error>;
}

#[async_trait]
impl ReadExecutions for Database {
    async fn last_checkpoint(
        &self,
        windows: &WindowMap,
        tenant: i32,
        place: ExecutionPlace,
    ) -> Result<Option<StoredCheckpoint>, Error> {
        self.select_last_checkpoint(windows, tenant, place).await
    }

    async fn is_tabled(
        &self,
        windows: &WindowMap,
        tenant: i32,
        lane: LaneId,
        mark: DueMark,
    ) -> Result<bool, Error> {
        let mut reader = self.read_for(tenant).await?;
        for table in looks(windows, Table::Due, mark.due.hour()) {
            let sql = format!("select 1 from {table} where lane = $1 and due_at = $2 and seq = $3");
            let statement = sqlx::query(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(Timestamp(mark.due))
                .bind(as_stored(mark.seq))
                .fetch_optional(&mut *reader);
            if self
                .timed("due_probe", "select", statement)
                .await?
                .is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn heads(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: Hour,
        (seqs, bytes): (&[u64], u64),
    ) -> Result<Vec<(u64, Head)>, Error> {
        for table in looks(windows, Table::Execution, home) {
            let sql = heads_sql(table);
            let asked: Vec<i64> = seqs.iter().copied().map(as_stored).collect();
            let statement = sqlx::query(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(home.0)
                .bind(asked)
                .bind(as_stored(bytes))
                .fetch_all(&self.pool);
            let rows = self.timed("execution_heads", "select", statement).await?;
            if !rows.is_empty() {
                return rows.iter().map(read_head).collect();
            }
        }
        Ok(Vec::new())
    }

    async fn reopened(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: Hour,
        seqs: &[u64],
    ) -> Result<Vec<(u64, Micros)>, Error> {
        let look = |table: &str| {
            format!(
                "select o.seq, o.at from unnest($3::int8[]) s (seq) cross join lateral (
                     select seq, at from {table} o
                     where o.lane = $1 and o.seq = s.seq and o.win = $2 and o.reason = $4
                     order by o.fence desc limit 1) o"
            )
        };
        let looks: Vec<String> = places(windows, Table::Outcome, home).map(look).collect();
        let sql = format!(
            "select seq, max(at) from ({}) o group by seq",
            looks.join(" union all ")
        );
        let asked: Vec<i64> = seqs.iter().copied().map(as_stored).collect();
        let statement = sqlx::query_as(AssertSqlSafe(sql))
            .bind(number(lane))
            .bind(home.0)
            .bind(asked)
            .bind(Reason::Redriven as i16)
            .fetch_all(&self.pool);
        let found: Vec<(i64, Timestamp)> = self.timed("reopened", "select", statement).await?;
        let found = found.into_iter();
        Ok(found
            .map(|(seq, at)| (u64::try_from(seq).unwrap_or(0), at.0))
            .collect())
    }

    async fn states(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: Hour,
        what: (&[(u64, CheckpointMark)], u64),
    ) -> Result<Vec<(u64, Bytes)>, Error> {
        self.select_states(windows, (lane, home), what).await
    }

    async fn stored(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        (class, span): (Class, Span),
        rows: usize,
    ) -> Result<StoredPage, Error> {
        let leaves = windows.leaves(Table::Execution, span.since.hour(), span.until.hour());
        let tables: Vec<&str> = leaves.chain(Table::Execution.kept()).collect();
        let statement = sqlx::query_as(AssertSqlSafe(stored_sql(&tables)))
            .bind(number(lane))
            .bind(as_stored(span.from))
            .bind(as_stored(span.to))
            .bind(class.tenant)
            .bind(class.queue)
            .bind(class.priority as i16)
            .bind(class.job_type)
            .bind(as_stored(rows.max(1) as u64))
            .fetch_all(&self.pool);
        let found: Vec<(i64, Option<Timestamp>)> =
            self.timed("execution_stored", "select", statement).await?;
        let (mut page, mut upto) = (Vec::with_capacity(found.len()), span.to);
        for (seq, at) in found {
            let seq = u64::try_from(seq).unwrap_or(0);
            match at {
                Some(at) => page.push((seq, at.0)),
                None => upto = seq,
            }
        }
        // What is carried over from a window that is still there comes twice.
        page.sort_unstable();
        page.dedup();
        Ok(StoredPage {
            from: span.from,
            upto,
            found: page,
        })
    }

    async fn execution(
        &self,
        windows: &WindowMap,
        tenant: i32,
        place: ExecutionPlace,
    ) -> Result<Option<StoredExecution>, Error> {
        let ExecutionPlace { lane, seq, home } = place;
        let mut reader = self.read_for(tenant).await?;
        for table in looks(windows, Table::Execution, home) {
            let sql = format!(
                "select {HEAD_COLUMNS} from {table} e
                 where e.lane = $1 and e.seq = $3 and e.win = $2"
            );
            let statement = sqlx::query(AssertSqlSafe(sql))
                .bind(number(lane))
                .bind(home.0)
                .bind(as_stored(seq))
                .fetch_optional(&mut *reader);
            if let Some(row) = self.timed("execution_get", "select", statement).await? {
                let (_, head) = read_head(&row)?;
                // What is cancelled beyond all windows has its outcome there, and may move into one since.
                let kept = Some(table) == Table::Execution.kept()
                    || head.due.is_some()
                    || windows.is_closing(Table::Outcome, home);
                let attempts = self.attempts(&mut reader, windows, place, kept).await?;
                return Ok(Some(StoredExecution { head, attempts }));
            }
        }
        Ok(None)
    }
}

impl Database {
    /// What a lane keeps apart that is due before an hour; at most `limit`, the earliest first.
    ///
    /// # Errors
    /// The database can't be read.
    pub(crate) async fn kept_due(
        &self,
        connection: &mut PgConnection,
        lane: LaneId,
        until: Hour,
        limit: usize,
    ) -> Result<Vec<KeptEntry>, Error> {
        const SELECT: &str = "select due_at, seq from kept_due
             where lane = $1 and due_at < $2 order by due_at, seq limit $3";
        let statement = sqlx::query_as(SELECT)
            .bind(number(lane))
            .bind(Timestamp(until.start()))
            .bind(as_stored(limit as u64))
            .fetch_all(connection);
        let rows: Vec<(Timestamp, i64)> = self.timed("kept_due", "select", statement).await?;
        let kept = rows.into_iter().map(|(due, seq)| {
            let (due, seq) = (due.0, u64::try_from(seq).unwrap_or(0));
            let mark = DueMark { due, seq };
            KeptEntry { lane, mark }
        });
        Ok(kept.collect())
    }
}

/// Where the rows of a home may be, the likeliest first.
pub(crate) fn places(windows: &WindowMap, table: Table, home: Hour) -> impl Iterator<Item = &str> {
    let leaf = windows.leaf(table, home).ok();
    leaf.into_iter().chain(table.kept())
}

/// The same for looks one after the other: what is kept apart may move into its window between two of them, so
/// the window comes last again.
fn looks(windows: &WindowMap, table: Table, home: Hour) -> impl Iterator<Item = &str> {
    let leaf = windows.leaf(table, home).ok();
    places(windows, table, home).chain(leaf)
}

/// Reads heads of a leaf. OFFSET 0 keeps the look-up of each number a look-up: a plan that is made while
/// the leaf is empty, and kept, would otherwise walk the lane from its start for every page. The length
/// of a payload that is stored apart is known without reading it.
fn heads_sql(leaf: &str) -> String {
    format!(
        "select {HEAD_COLUMNS} from (
             select e.*, sum(octet_length(e.payload)) over (order by s.place)
                 - octet_length(e.payload) as before
             from unnest($3::int8[]) with ordinality s (seq, place)
             cross join lateral (
                 select * from {leaf} e where e.lane = $1 and e.seq = s.seq and e.win = $2 offset 0
             ) e
         ) e where e.before < $4"
    )
}

/// Reads the executions of a class in a span of numbers ($2 to $3), walking the primary key of each table that they
/// may be in for $8 rows in all; in one statement, since a window may go meanwhile. Where there may be more rows,
/// the last of the result is the last that was looked at, and has no time.
fn stored_sql(tables: &[&str]) -> String {
    let table = |table: &&str| {
        format!(
            "(select seq, at, tenant = $4 and queue = $5 and priority = $6 and job_type = $7
                 and due_at is null as own
             from {table} where lane = $1 and seq >= $2 and seq <= $3 order by seq limit $8)"
        )
    };
    let tables: Vec<String> = tables.iter().map(table).collect();
    format!(
        "with looked_at as materialized (
             select * from ({}) e order by seq limit $8
         )
         select seq, at from looked_at where own
         union all select max(seq), null from looked_at having count(*) = $8",
        tables.join(" union all ")
    )
}

/// Labels or headers as stored: JSON, or nothing.
pub(crate) fn to_json(pairs: &Pairs) -> Option<String> {
    (!pairs.is_empty()).then(|| serde_json::to_string(pairs).unwrap_or_default())
}

pub(crate) fn from_json(text: Option<String>) -> Pairs {
    text.and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

pub(crate) fn inconsistent(table: &'static str, what: impl Into<String>) -> Error {
    Error::Inconsistent {
        table,
        what: what.into(),
    }
}

fn read_head(row: &PgRow) -> Result<(u64, Head), Error> {
    let read = Error::of("execution_heads");
    let seq: i64 = row.try_get(0).map_err(&read)?;
    let priority: i16 = row.try_get(4).map_err(&read)?;
    let priority = Priority::from_number(i32::from(priority))
        .ok_or_else(|| inconsistent("execution", format!("{seq}: priority {priority}")))?;
    let timeout_us: i64 = row.try_get(6).map_err(&read)?;
    let trace: Option<Vec<u8>> = row.try_get(8).map_err(&read)?;
    let parent_span: Option<Vec<u8>> = row.try_get(9).map_err(&read)?;
    let head = Head {
        tenant: row.try_get(1).map_err(&read)?,
        queue: row.try_get(2).map_err(&read)?,
        job_type: row.try_get(3).map_err(&read)?,
        priority,
        accepted: row.try_get::<Timestamp, _>(5).map_err(&read)?.0,
        due: optional_time(row.try_get(17).map_err(&read)?),
        timeout: Duration::from_micros(u64::try_from(timeout_us).unwrap_or(0)),
        retry_policy: row.try_get(7).map_err(&read)?,
        trace: trace.and_then(|bytes| bytes.try_into().ok()),
        parent_span: parent_span.and_then(|bytes| bytes.try_into().ok()),
        request_at: optional_time(row.try_get(10).map_err(&read)?),
        tracestate: boxed(row.try_get(11).map_err(&read)?),
        correlation_id: boxed(row.try_get(12).map_err(&read)?),
        labels: from_json(row.try_get(13).map_err(&read)?),
        headers: from_json(row.try_get(14).map_err(&read)?),
        payload: Bytes::from(row.try_get::<Vec<u8>, _>(15).map_err(&read)?),
        content_type: boxed(row.try_get(16).map_err(&read)?),
    };
    Ok((u64::try_from(seq).unwrap_or(0), head))
}

pub(crate) fn optional_time(time: Option<Timestamp>) -> Option<Micros> {
    time.map(|time| time.0)
}

pub(crate) fn boxed(text: Option<String>) -> Option<Box<str>> {
    text.map(String::into_boxed_str)
}

fn read_attempt(row: &PgRow) -> Result<StoredAttempt, Error> {
    let read = Error::of("execution_outcomes");
    let fence: i64 = row.try_get(1).map_err(&read)?;
    let state: i16 = row.try_get(3).map_err(&read)?;
    let state = ExecutionState::from_number(state)
        .ok_or_else(|| inconsistent("outcome", format!("fence {fence}: state {state}")))?;
    let mut phases_us = [0; 4];
    for (place, phase) in phases_us.iter_mut().enumerate() {
        *phase = row.try_get(7 + place).map_err(&read)?;
    }
    Ok(StoredAttempt {
        attempt: row.try_get(0).map_err(&read)?,
        fence: u64::try_from(fence).unwrap_or(0),
        result: row.try_get(2).map_err(&read)?,
        state,
        reason: row.try_get(4).map_err(&read)?,
        worker: row.try_get(5).map_err(&read)?,
        claimed: row.try_get::<Timestamp, _>(6).map_err(&read)?.0,
        phases_us,
        at: row.try_get::<Timestamp, _>(11).map_err(&read)?.0,
        next_at: optional_time(row.try_get(12).map_err(&read)?),
        error_class: row.try_get(13).map_err(&read)?,
        error_message: row.try_get(14).map_err(&read)?,
        output: row.try_get(15).map_err(&read)?,
        output_type: row.try_get(16).map_err(&read)?,
        trace_kept: row.try_get(17).map_err(&read)?,
        budgets: Budgets {
            attempts: used(row, 18)?,
            lost: used(row, 19)?,
        },
        items: Items {
            success: counted(row, 20)?,
            failed: counted(row, 21)?,
            skipped: counted(row, 22)?,
        },
        progress: read_progress(row, 23)?,
    })
}

fn used(row: &PgRow, place: usize) -> Result<u16, Error> {
    let used: i16 = row.try_get(place).map_err(Error::of("budgets"))?;
    Ok(u16::try_from(used).unwrap_or(0))
}

/// What handlers count, where they do.
fn counted(row: &PgRow, place: usize) -> Result<u64, Error> {
    let counted: Option<i64> = row.try_get(place).map_err(Error::of("items"))?;
    Ok(u64::try_from(counted.unwrap_or(0)).unwrap_or(0))
}

fn read_due(row: &PgRow) -> Result<TimedEntry, Error> {
    let read = Error::of("due_read");
    let seq: i64 = row.try_get(1).map_err(&read)?;
    let priority: i16 = row.try_get(5).map_err(&read)?;
    let priority = Priority::from_number(i32::from(priority))
        .ok_or_else(|| inconsistent("due", format!("{seq}: priority {priority}")))?;
    let wait = u64::from(used(row, 9)?);
    let wait = Wait::from_number(wait)
        .ok_or_else(|| inconsistent("due", format!("{seq}: wait {wait}")))?;
    let budgets = Budgets {
        attempts: used(row, 7)?,
        lost: used(row, 8)?,
    };
    let class = Class {
        tenant: row.try_get(3).map_err(&read)?,
        queue: row.try_get(4).map_err(&read)?,
        priority,
        job_type: row.try_get(6).map_err(&read)?,
        suspect: false,
    };
    Ok(TimedEntry {
        mark: DueMark {
            due: row.try_get::<Timestamp, _>(0).map_err(&read)?.0,
            seq: u64::try_from(seq).unwrap_or(0),
        },
        home: Hour(row.try_get(2).map_err(&read)?),
        class: class.after(budgets),
        budgets,
        wait,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::Plans;

    #[tokio::test]
    async fn heads_are_looked_up_one_by_one_whatever_the_statistics_say() {
        let plans = Plans::new().await;
        let hour = plans.term.now().hour();
        let leaf = plans.windows.leaf(Table::Execution, hour).unwrap();
        let types = "int2, int4, int8[], int8";
        let arguments = "1::int2, 1, '{1,2}', 10";
        let plan = plans.of(types, &heads_sql(leaf), arguments).await;
        let probe = "Index Cond: ((lane = $1) AND (seq = s.seq) AND (win = $2))";
        assert!(plan.contains(probe), "{plan}");
    }

    #[tokio::test]
    async fn what_waits_in_its_table_is_read_along_the_primary_key() {
        let plans = Plans::new().await;
        let hour = plans.term.now().hour();
        let leaf = plans.windows.leaf(Table::Execution, hour).unwrap();
        let sql = stored_sql(&[leaf, "kept_execution"]);
        let types = "int2, int8, int8, int4, int4, int2, int4, int8";
        let arguments = "1::int2, 1, 1000000, 1, 1, 1::int2, 1, 2000";
        let fill = "set statement_timeout = 0;
            insert into execution (win, lane, seq, tenant, queue, job_type, priority, at, timeout_us,
                retry_policy, payload)
            select {win}, n % 64, n, 1, n % 5, 1, 3, now(), 1, 1, '' from generate_series(1, 100000) n;
            analyze execution;";
        for fill in ["", fill] {
            let fill = fill.replace("{win}", &hour.0.to_string());
            plans.execute(&fill).await;
            let plan = plans.of(types, &sql, arguments).await;
            let count = |what: &str| plan.matches(what).count();
            assert_eq!(count("Index Scan using"), 2, "{plan}");
            let probe = "Index Cond: ((lane = $1) AND (seq >= $2) AND (seq <= $3))";
            assert_eq!(count(probe), 2, "{plan}");
            assert_eq!(count("Seq Scan"), 0, "{plan}");
        }
    }
}
