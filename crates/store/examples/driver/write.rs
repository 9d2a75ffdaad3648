//! The two ways to write a batch.

use std::error::Error;

use domain::lane::Row;
use domain::{Hour, LaneId, Micros};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use store::{Batch, NewExecution, Outcome, Table, WindowMap, WriteLanes, Writer};
use uuid::Uuid;

use crate::place::Place;

const EXECUTION_COLUMNS: &str = "win, lane, seq, tenant, queue, job_type, priority, at, timeout_us,
    retry_policy, trace, parent_span, request_at, tracestate, correlation_id, labels, headers,
    payload, content_type";
const OUTCOME_COLUMNS: &str =
    "win, lane, seq, fence, tenant, queue, attempt, result, state, reason,
    attempts_used, lost_used, worker, claimed_at, queued_us, dispatch_us, run_us, report_us, at,
    next_at, error_class, error_message, output, output_type, trace_kept";
/// PostgreSQL counts its timestamps from 2000-01-01.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// How a batch is written.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// One statement, with unnest; one round trip.
    Statement,
    /// A transaction: the chain row, then one COPY for each table; six round trips.
    Copy,
}

/// A connection that writes in one of the ways.
pub(crate) enum Pen {
    Statement(Box<Writer>),
    Copy(Box<PgConnection>),
}

impl Pen {
    pub(crate) async fn take(place: &Place, way: Way) -> Result<Self, Box<dyn Error>> {
        Ok(match way {
            Way::Statement => Self::Statement(Box::new(Writer::new(place.database.clone()))),
            Way::Copy => Self::Copy(Box::new(PgConnection::connect(&place.url).await?)),
        })
    }

    pub(crate) async fn write(
        &mut self,
        windows: &WindowMap,
        batch: &Batch,
    ) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Statement(writer) => Ok(writer.commit(windows, batch).await?),
            Self::Copy(connection) => copy(connection, windows, batch).await,
        }
    }
}

async fn copy(
    connection: &mut PgConnection,
    windows: &WindowMap,
    batch: &Batch,
) -> Result<(), Box<dyn Error>> {
    let mut transaction = connection.begin().await?;
    for row in &batch.rows {
        insert_row(&mut transaction, windows, row).await?;
    }
    if let Some(first) = batch.executions.first() {
        let leaf = windows.leaf(Table::Execution, first.home)?;
        let mut rows = Rows::begin();
        for execution in &batch.executions {
            rows.execution(execution, batch.rows[0].at);
        }
        rows.send(&mut transaction, leaf, EXECUTION_COLUMNS).await?;
    }
    if let Some(first) = batch.outcomes.first() {
        let leaf = windows.leaf(Table::Outcome, first.home)?;
        let mut rows = Rows::begin();
        for outcome in &batch.outcomes {
            rows.outcome(outcome, batch.rows[0].at);
        }
        rows.send(&mut transaction, leaf, OUTCOME_COLUMNS).await?;
    }
    Ok(transaction.commit().await?)
}

async fn insert_row(
    connection: &mut PgConnection,
    windows: &WindowMap,
    row: &Row,
) -> Result<(), Box<dyn Error>> {
    let leaf = windows.chain_leaf(row.link.n)?;
    let sql = format!(
        "with c as (insert into {leaf} (lane, n, batch, epoch, kind, at, next_seq, submitted, claimed,
             finished, delta)
         select $1, $2, $3, $4, $5, timestamptz 'epoch' + $6 * interval '1 microsecond', $7, $8, $9,
             $10, $11
         where exists (select from {leaf} p where p.lane = $1 and p.n = $12 and p.batch = $13)
         returning 1) select chain_fence((select count(*) from c), 1)"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(lane(row.lane))
        .bind(long(row.link.n))
        .bind(Uuid::from_u128(row.link.batch))
        .bind(row.epoch)
        .bind(row.kind.number())
        .bind(row.at.0)
        .bind(long(row.next_seq))
        .bind(long(row.totals.submitted))
        .bind(long(row.totals.claimed))
        .bind(long(row.totals.finished))
        .bind(row.delta.encode())
        .bind(long(row.previous.n))
        .bind(Uuid::from_u128(row.previous.batch))
        .execute(connection)
        .await?;
    Ok(())
}

/// Rows in COPY's binary form.
struct Rows(Vec<u8>);

impl Rows {
    fn begin() -> Self {
        let mut header = b"PGCOPY\n\xff\r\n\0".to_vec();
        header.extend_from_slice(&[0; 8]);
        Self(header)
    }

    async fn send(
        mut self,
        connection: &mut PgConnection,
        leaf: &str,
        columns: &str,
    ) -> Result<(), Box<dyn Error>> {
        self.0.extend_from_slice(&(-1i16).to_be_bytes());
        let sql = format!("copy {leaf} ({columns}) from stdin (format binary)");
        let mut copy = connection.copy_in_raw(&sql).await?;
        copy.send(self.0).await?;
        copy.finish().await?;
        Ok(())
    }

    fn execution(&mut self, new: &NewExecution, at: Micros) {
        let head = &new.head;
        self.columns(19);
        self.hour(new.home);
        self.short(lane(new.lane));
        self.long(long(new.seq));
        self.int(head.tenant);
        self.int(head.queue);
        self.int(head.job_type);
        self.short(head.priority as i16);
        self.time(Some(at));
        self.long(i64::try_from(head.timeout.as_micros()).unwrap_or(i64::MAX));
        self.int(head.retry_policy);
        self.bytes(head.trace.as_ref().map(|trace| &trace[..]));
        self.bytes(head.parent_span.as_ref().map(|span| &span[..]));
        self.time(head.request_at);
        self.text(head.tracestate.as_deref());
        self.text(head.correlation_id.as_deref());
        self.json(&head.labels);
        self.json(&head.headers);
        self.bytes(Some(&head.payload));
        self.text(head.content_type.as_deref());
    }

    fn outcome(&mut self, outcome: &Outcome, at: Micros) {
        self.columns(25);
        self.hour(outcome.home);
        self.short(lane(outcome.lane));
        self.long(long(outcome.seq));
        self.long(long(outcome.fence));
        self.int(outcome.tenant);
        self.int(outcome.queue);
        let (attempts, lost) = (outcome.budgets.attempts, outcome.budgets.lost);
        let numbers = [
            outcome.result.map_or(0, |result| result as i16),
            outcome.state as i16,
            outcome.reason as i16,
        ];
        self.short(small(outcome.attempt));
        for number in numbers.into_iter().chain([small(attempts), small(lost)]) {
            self.short(number);
        }
        self.text(Some(&outcome.worker));
        self.time(Some(outcome.claimed));
        for phase in [
            outcome.queued_us,
            outcome.dispatch_us,
            outcome.run_us,
            outcome.report_us,
        ] {
            self.long(phase);
        }
        self.time(Some(at));
        self.time(outcome.next_at);
        self.text(outcome.error_class.as_deref());
        self.text(outcome.error_message.as_deref());
        self.bytes(outcome.output.as_deref());
        self.text(outcome.output_type.as_deref());
        self.bytes(Some(&[u8::from(outcome.trace_kept)]));
    }

    fn columns(&mut self, count: i16) {
        self.0.extend_from_slice(&count.to_be_bytes());
    }

    fn bytes(&mut self, value: Option<&[u8]>) {
        let length = value.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value.unwrap_or_default());
    }

    fn text(&mut self, value: Option<&str>) {
        self.bytes(value.map(str::as_bytes));
    }

    fn short(&mut self, value: i16) {
        self.bytes(Some(&value.to_be_bytes()));
    }

    fn int(&mut self, value: i32) {
        self.bytes(Some(&value.to_be_bytes()));
    }

    fn long(&mut self, value: i64) {
        self.bytes(Some(&value.to_be_bytes()));
    }

    fn hour(&mut self, hour: Hour) {
        self.int(hour.0);
    }

    fn time(&mut self, time: Option<Micros>) {
        let stored = time.map(|time| (time.0 - EPOCH_2000).to_be_bytes());
        self.bytes(stored.as_ref().map(|bytes| &bytes[..]));
    }

    /// jsonb's binary form is its text behind a version.
    fn json(&mut self, pairs: &store::Pairs) {
        let mut stored = vec![1];
        serde_json::to_writer(&mut stored, pairs).expect("text has a JSON form");
        self.bytes((!pairs.is_empty()).then_some(&stored));
    }
}

fn lane(lane: LaneId) -> i16 {
    i16::try_from(lane.0).unwrap_or(i16::MAX)
}

fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn small(number: u16) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}
