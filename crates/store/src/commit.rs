//! One batch, one statement: the chain rows of all lanes it touches, and everything that belongs to
//! them, in a single round trip that commits by itself.

use std::sync::Arc;

use domain::lane::{DueMark, Lane, Row, TimedEntry};
use domain::{AttemptResult, Budgets, ExecutionState, Hour, LaneId, Micros, Reason};
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, Encode, Postgres, Type};
use uuid::Uuid;

use crate::chain::as_stored;
use crate::database::{Dedicated, Purpose};
use crate::lane_lease::{LaneLease, number};
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, NewExecution, WindowMap};

/// What one transaction writes.
#[derive(Default, Debug)]
pub struct Batch {
    /// A row for each lane that is touched, lanes ascending, all planned at the same time.
    pub rows: Vec<Row>,
    /// The executions that the rows accept.
    pub executions: Vec<NewExecution>,
    /// The outcomes of the attempts that the rows end.
    pub outcomes: Vec<Outcome>,
    /// The retries that lie beyond what has been read of the `due` table.
    pub due: Vec<DueEntry>,
}

/// How one attempt ended: a row of `outcome`.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its execution's lane.
    pub lane: LaneId,
    /// Its execution's number.
    pub seq: u64,
    /// Its execution's home hour.
    pub home: Hour,
    /// The attempt's fence.
    pub fence: u64,
    /// The tenant's number.
    pub tenant: i32,
    /// The queue's number.
    pub queue: i32,
    /// Counts from 1.
    pub attempt: u16,
    /// How it ended.
    pub result: AttemptResult,
    /// What that made of the execution.
    pub state: ExecutionState,
    /// Why.
    pub reason: Reason,
    /// What is used up by then.
    pub budgets: Budgets,
    /// Who ran it.
    pub worker: Arc<str>,
    /// When it was claimed.
    pub claimed: Micros,
    /// Enqueued to claimed, in microseconds.
    pub queued_us: i64,
    /// Claimed to the handler's begin.
    pub dispatch_us: i64,
    /// The handler's run time.
    pub run_us: i64,
    /// The handler's end to the commit.
    pub report_us: i64,
    /// RETRYING: when next.
    pub next_at: Option<Micros>,
    /// The error's class.
    pub error_class: Option<String>,
    /// The error's text.
    pub error_message: Option<String>,
    /// What the handler returned.
    pub output: Option<bytes::Bytes>,
    /// Its media type.
    pub output_type: Option<String>,
    /// Whether its trace is kept.
    pub trace_kept: bool,
}

/// A retry on its way to the `due` table.
#[derive(Clone, Copy, Debug)]
pub struct DueEntry {
    /// Whose.
    pub lane: LaneId,
    /// When, and what.
    pub entry: TimedEntry,
}

/// A connection for committing batches: made when it is needed, and made anew after an error.
pub struct Writer(Dedicated);

impl Writer {
    /// A writer that isn't connected yet.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self(Dedicated::new(database, Purpose::Writing))
    }

    /// Commits a batch, behind the fence of each of its lanes. To be run to its end, never cancelled.
    ///
    /// # Errors
    /// [`Error::NoWindow`]: nothing was sent. [`Error::Deposed`]: nothing was committed, and somebody else
    /// wrote to one of the lanes. Anything else: whether it was committed is unknown.
    pub async fn commit(&mut self, windows: &WindowMap, batch: &Batch) -> Result<(), Error> {
        let Some(at) = batch.rows.first().map(|row| row.at) else {
            return Ok(());
        };
        let mut statement = Statement::new(at);
        statement.chain(windows, &batch.rows)?;
        statement.executions(windows, &batch.executions)?;
        statement.outcomes(windows, &batch.outcomes)?;
        statement.due(windows, &batch.due)?;
        let (sql, arguments) = statement.finish(batch.rows.len());
        let mut connection = self.0.take().await?;
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut connection);
        self.0
            .database
            .timed("lane_commit", "insert", query)
            .await?;
        self.0.put_back(connection);
        Ok(())
    }

    /// Due entries of a lane after a mark and up to another, at most `limit`, in order.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    pub async fn due_entries(
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

    /// Takes a lane over under a lease that holds: replays its chain, and writes the rows that shut its
    /// old owner out. Waits for what the old owner has in flight.
    ///
    /// # Errors
    /// [`Error::LeaseOver`]; or the database can't be reached, the chain doesn't make sense, or the old
    /// owner keeps writing.
    pub async fn take_over(&mut self, lease: &LaneLease, now: Micros) -> Result<Lane, Error> {
        let mut connection = self.0.take().await?;
        let memory = self
            .0
            .database
            .take_over(&mut connection, lease, now)
            .await?;
        self.0.put_back(connection);
        Ok(memory)
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

/// The statement while it is put together: one common table expression for each leaf it writes to.
struct Statement {
    parts: Vec<String>,
    fences: Vec<String>,
    arguments: PgArguments,
    count: usize,
}

/// The place of the one argument that all parts share: when the batch was planned.
const AT: &str = "$1";

impl Statement {
    fn new(at: Micros) -> Self {
        let empty = (Vec::new(), Vec::new(), PgArguments::default());
        let mut statement = Self {
            parts: empty.0,
            fences: empty.1,
            arguments: empty.2,
            count: 0,
        };
        statement.bind(Timestamp(at));
        statement
    }

    /// Adds an argument; gives its place.
    fn bind<'q, T: Encode<'q, Postgres> + Type<Postgres>>(&mut self, value: T) -> usize {
        self.arguments
            .add(value)
            .expect("numbers, bytes and checked text always encode");
        self.count += 1;
        self.count
    }

    /// Adds a column of `unnest`; gives its place with its type.
    fn column<'q, T>(&mut self, sql_type: &str, values: Vec<T>) -> String
    where
        Vec<T>: Encode<'q, Postgres> + Type<Postgres>,
    {
        format!("${}::{sql_type}[]", self.bind(values))
    }

    fn finish(mut self, rows: usize) -> (String, PgArguments) {
        let meant = self.bind(rows as i64);
        let inserted = self.fences.join(" + ");
        let sql = format!(
            "with {} select chain_fence({inserted}, ${meant})",
            self.parts.join(", ")
        );
        (sql, self.arguments)
    }

    fn chain(&mut self, windows: &WindowMap, rows: &[Row]) -> Result<(), Error> {
        let place = |row: &Row| {
            let (leaf, before) = (
                windows.chain_leaf(row.link.n)?,
                windows.chain_leaf(row.previous.n)?,
            );
            // At a window's border the row before lies in another leaf: look it up through the parent.
            Ok((
                leaf,
                if leaf == before {
                    leaf
                } else {
                    Table::Chain.name()
                },
            ))
        };
        for ((leaf, before), rows) in grouped(rows, place)? {
            self.chain_leaf(leaf, before, &rows);
        }
        Ok(())
    }

    fn chain_leaf(&mut self, leaf: &str, before: &str, rows: &[&Row]) {
        let columns = [
            self.column("int2", each(rows, |r| number(r.lane))),
            self.column("int8", each(rows, |r| as_stored(r.link.n))),
            self.column("uuid", each(rows, |r| Uuid::from_u128(r.link.batch))),
            self.column("int8", each(rows, |r| r.epoch)),
            self.column("int2", each(rows, |r| r.kind.number())),
            self.column("int8", each(rows, |r| as_stored(r.next_seq))),
            self.column("int8", each(rows, |r| as_stored(r.totals.submitted))),
            self.column("int8", each(rows, |r| as_stored(r.totals.claimed))),
            self.column("int8", each(rows, |r| as_stored(r.totals.finished))),
            self.column("bytea", each(rows, |r| r.delta.encode())),
            self.column("int8", each(rows, |r| as_stored(r.previous.n))),
            self.column("uuid", each(rows, |r| Uuid::from_u128(r.previous.batch))),
        ];
        let name = format!("c{}", self.parts.len());
        self.parts.push(format!(
            "{name} as (insert into {leaf} (lane, n, batch, epoch, kind, at, next_seq, submitted,
                 claimed, finished, delta)
             select u.lane, u.n, u.batch, u.epoch, u.kind, {AT}, u.next_seq, u.submitted, u.claimed,
                 u.finished, u.delta
             from unnest({}) u (lane, n, batch, epoch, kind, next_seq, submitted, claimed, finished,
                 delta, previous_n, previous_batch)
             where exists (select from {before} p where p.lane = u.lane and p.n = u.previous_n
                 and p.batch = u.previous_batch)
             returning 1)",
            columns.join(", ")
        ));
        self.fences.push(format!("(select count(*) from {name})"));
    }

    fn executions(&mut self, windows: &WindowMap, all: &[NewExecution]) -> Result<(), Error> {
        for (leaf, new) in grouped(all, |e| windows.leaf(Table::Execution, e.home))? {
            let columns = execution_columns(self, &new);
            let part = format!("e{}", self.parts.len());
            self.parts.push(format!(
                "{part} as (insert into {leaf} (win, lane, seq, tenant, queue, job_type, priority, at,
                     timeout_us, retry_policy, trace, parent_span, request_at, tracestate,
                     correlation_id, labels, headers, payload, content_type)
                 select u.win, u.lane, u.seq, u.tenant, u.queue, u.job_type, u.priority, {AT},
                     u.timeout_us, u.retry_policy, u.trace, u.parent_span, u.request_at, u.tracestate,
                     u.correlation_id, u.labels::jsonb, u.headers::jsonb, u.payload, u.content_type
                 from unnest({}) u (win, lane, seq, tenant, queue, job_type, priority, timeout_us,
                     retry_policy, trace, parent_span, request_at, tracestate, correlation_id, labels,
                     headers, payload, content_type))",
                columns.join(", ")
            ));
        }
        Ok(())
    }

    fn outcomes(&mut self, windows: &WindowMap, all: &[Outcome]) -> Result<(), Error> {
        for (leaf, outcomes) in grouped(all, |o| windows.leaf(Table::Outcome, o.home))? {
            let columns = outcome_columns(self, &outcomes);
            let names = "win, lane, seq, fence, tenant, queue, attempt, result, state, reason,
                attempts_used, lost_used, worker, claimed_at, queued_us, dispatch_us, run_us, report_us,
                next_at, error_class, error_message, output, output_type, trace_kept";
            let part = format!("o{}", self.parts.len());
            self.parts.push(format!(
                "{part} as (insert into {leaf} ({names}, at)
                 select u.*, {AT} from unnest({}) u ({names}))",
                columns.join(", ")
            ));
        }
        Ok(())
    }

    fn due(&mut self, windows: &WindowMap, all: &[DueEntry]) -> Result<(), Error> {
        let leaf = |due: &DueEntry| windows.leaf(Table::Due, due.entry.mark.due.hour());
        for (leaf, entries) in grouped(all, leaf)? {
            let columns = due_columns(self, &entries);
            let names =
                "win, lane, due_at, seq, home, tenant, queue, priority, job_type, attempts, lost";
            let part = format!("d{}", self.parts.len());
            self.parts.push(format!(
                "{part} as (insert into {leaf} ({names}) select u.* from unnest({}) u ({names}))",
                columns.join(", ")
            ));
        }
        Ok(())
    }
}

fn execution_columns(to: &mut Statement, new: &[&NewExecution]) -> [String; 18] {
    let head = |e: &&NewExecution| Arc::clone(&e.head);
    let heads: Vec<_> = new.iter().map(head).collect();
    let heads: &[Arc<crate::Head>] = &heads;
    [
        to.column("int4", each(new, |e| e.home.0)),
        to.column("int2", each(new, |e| number(e.lane))),
        to.column("int8", each(new, |e| as_stored(e.seq))),
        to.column("int4", each(heads, |h| h.tenant)),
        to.column("int4", each(heads, |h| h.queue)),
        to.column("int4", each(heads, |h| h.job_type)),
        to.column("int2", each(heads, |h| h.priority as i16)),
        to.column("int8", each(heads, |h| crate::leader::micros(h.timeout))),
        to.column("int4", each(heads, |h| h.retry_policy)),
        to.column(
            "bytea",
            heads
                .iter()
                .map(|h| h.trace.as_ref().map(|t| &t[..]))
                .collect(),
        ),
        to.column(
            "bytea",
            heads
                .iter()
                .map(|h| h.parent_span.as_ref().map(|s| &s[..]))
                .collect(),
        ),
        to.column("timestamptz", each(heads, |h| h.request_at.map(Timestamp))),
        to.column(
            "text",
            heads.iter().map(|h| h.tracestate.as_deref()).collect(),
        ),
        to.column(
            "text",
            heads.iter().map(|h| h.correlation_id.as_deref()).collect(),
        ),
        to.column(
            "text",
            each(heads, |h| crate::execution::to_json(&h.labels)),
        ),
        to.column(
            "text",
            each(heads, |h| crate::execution::to_json(&h.headers)),
        ),
        to.column("bytea", heads.iter().map(|h| &h.payload[..]).collect()),
        to.column(
            "text",
            heads.iter().map(|h| h.content_type.as_deref()).collect(),
        ),
    ]
}

fn outcome_columns(to: &mut Statement, outcomes: &[&Outcome]) -> [String; 24] {
    let all = outcomes;
    [
        to.column("int4", each(all, |o| o.home.0)),
        to.column("int2", each(all, |o| number(o.lane))),
        to.column("int8", each(all, |o| as_stored(o.seq))),
        to.column("int8", each(all, |o| as_stored(o.fence))),
        to.column("int4", each(all, |o| o.tenant)),
        to.column("int4", each(all, |o| o.queue)),
        to.column("int2", each(all, |o| small(o.attempt))),
        to.column("int2", each(all, |o| o.result as i16)),
        to.column("int2", each(all, |o| o.state as i16)),
        to.column("int2", each(all, |o| o.reason as i16)),
        to.column("int2", each(all, |o| small(o.budgets.attempts))),
        to.column("int2", each(all, |o| small(o.budgets.lost))),
        to.column("text", all.iter().map(|o| &*o.worker).collect()),
        to.column("timestamptz", each(all, |o| Timestamp(o.claimed))),
        to.column("int8", each(all, |o| o.queued_us)),
        to.column("int8", each(all, |o| o.dispatch_us)),
        to.column("int8", each(all, |o| o.run_us)),
        to.column("int8", each(all, |o| o.report_us)),
        to.column("timestamptz", each(all, |o| o.next_at.map(Timestamp))),
        to.column(
            "text",
            all.iter().map(|o| o.error_class.as_deref()).collect(),
        ),
        to.column(
            "text",
            all.iter().map(|o| o.error_message.as_deref()).collect(),
        ),
        to.column("bytea", all.iter().map(|o| o.output.as_deref()).collect()),
        to.column(
            "text",
            all.iter().map(|o| o.output_type.as_deref()).collect(),
        ),
        to.column("bool", each(all, |o| o.trace_kept)),
    ]
}

fn due_columns(to: &mut Statement, entries: &[&DueEntry]) -> [String; 11] {
    [
        to.column("int4", each(entries, |d| d.entry.mark.due.hour().0)),
        to.column("int2", each(entries, |d| number(d.lane))),
        to.column(
            "timestamptz",
            each(entries, |d| Timestamp(d.entry.mark.due)),
        ),
        to.column("int8", each(entries, |d| as_stored(d.entry.mark.seq))),
        to.column("int4", each(entries, |d| d.entry.home.0)),
        to.column("int4", each(entries, |d| d.entry.class.tenant)),
        to.column("int4", each(entries, |d| d.entry.class.queue)),
        to.column("int2", each(entries, |d| d.entry.class.priority as i16)),
        to.column("int4", each(entries, |d| d.entry.class.job_type)),
        to.column("int2", each(entries, |d| small(d.entry.budgets.attempts))),
        to.column("int2", each(entries, |d| small(d.entry.budgets.lost))),
    ]
}

fn each<T, U>(items: &[T], value: impl Fn(&T) -> U) -> Vec<U> {
    items.iter().map(value).collect()
}

/// At most 1000 attempts and a few losses: it always fits.
fn small(number: u16) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

/// The items by where they go, in order; mostly all to one place.
fn grouped<T, K: PartialEq>(
    items: &[T],
    place: impl Fn(&T) -> Result<K, Error>,
) -> Result<Vec<(K, Vec<&T>)>, Error> {
    let mut groups: Vec<(K, Vec<&T>)> = Vec::new();
    for item in items {
        let key = place(item)?;
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    Ok(groups)
}
