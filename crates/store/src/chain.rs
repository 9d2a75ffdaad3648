//! The chain, read: take-over by replay.

use std::convert::Infallible;
use std::time::Duration;

use domain::lane::{DatabaseIdentity, Delta, Lane, Link, Row, RowKind, Totals};
use domain::{LaneId, Micros};
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row as _};
use uuid::Uuid;

use crate::database::within;
use crate::lane_lease::{LaneLease, number};
use crate::timestamp::Timestamp;
use crate::{Database, Error};

/// How long a take-over waits for what the old owner has in flight, whose statements end sooner.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a take-over waits for somebody before it ends them.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a take-over that meets the old owner's last writes reads on and tries again.
const TRIES: usize = 5;

impl Database {
    pub(crate) async fn take_over(
        &self,
        connection: &mut PgConnection,
        lease: &LaneLease,
        (identity, now): (DatabaseIdentity, Micros),
    ) -> Result<Lane, Error> {
        let LaneLease { lane, epoch, .. } = *lease;
        self.skip_numbers(connection).await?;
        let mut last = None;
        for _ in 0..TRIES {
            let mut memory = self.replay(connection, lane).await?;
            let rows = memory.take_over(epoch, identity, now, Uuid::new_v4().as_u128());
            let backend = backend_of(connection).await?;
            let writing = within(LIMIT, self.write_take_over(connection, lease, &rows));
            let written = tokio::select! {
                written = writing => written,
                never = self.end_who_blocks(backend) => match never {},
            };
            match written {
                Ok(()) => {
                    apply_all(&mut memory, &rows)?;
                    return Ok(memory);
                }
                Err(error @ Error::Deposed { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(Error::Inconsistent {
            table: "chain",
            what: format!("lane {lane}"),
        }))
    }

    /// Leaves gaps in the numbers that the database gives: those that it may have lost with its last changes
    /// don't come again, for executions that come through inboxes, retry policies and job types. One at a
    /// time, or the sequences would go back.
    async fn skip_numbers(&self, connection: &mut PgConnection) -> Result<(), Error> {
        const SKIP: &str = "select setval(s.name, nextval(s.name) + s.gap)
             from (select pg_advisory_xact_lock(hashtext('ext_seq')) offset 0) one,
                 (values ('ext_seq', 1 << 20), ('retry_policy_number_seq', 64),
                     ('job_type_number_seq', 64)) s (name, gap)";
        let skip = sqlx::query(SKIP).execute(connection);
        self.timed("skip_numbers", "update", skip).await.map(drop)
    }

    /// Ends the sessions that a take-over waits for: an old owner that was stopped in the middle of a
    /// statement is bounded by none of its own time limits.
    async fn end_who_blocks(&self, backend: i32) -> Infallible {
        const END: &str = "select pid, pg_terminate_backend(pid)
             from unnest(pg_blocking_pids($1)) pid";
        loop {
            tokio::time::sleep(PATIENCE).await;
            let end = sqlx::query_as(END).bind(backend).fetch_all(&self.pool);
            let ended: Result<Vec<(i32, bool)>, Error> =
                self.timed("blockers_end", "select", end).await;
            // Whoever can't be ended is waited for.
            for (pid, done) in ended.unwrap_or_default() {
                tracing::warn!(
                    event = "blocker_ended",
                    pid,
                    done,
                    "a session stood in the way of a take-over"
                );
            }
        }
    }

    /// The batch that wrote a row of a chain, if the row is there.
    pub(crate) async fn batch_at(
        &self,
        connection: &mut PgConnection,
        lane: LaneId,
        n: u64,
    ) -> Result<Option<u128>, Error> {
        const SELECT: &str = "select batch from chain where lane = $1 and n = $2";
        let statement = sqlx::query_scalar(SELECT)
            .bind(number(lane))
            .bind(as_stored(n))
            .fetch_optional(connection);
        let batch: Option<Uuid> = self.timed("chain_batch", "select", statement).await?;
        Ok(batch.map(|batch| batch.as_u128()))
    }

    pub(crate) async fn replay(
        &self,
        connection: &mut PgConnection,
        lane: LaneId,
    ) -> Result<Lane, Error> {
        const CHAIN: &str =
            "select n, batch, epoch, kind, jump_to, at, next_seq, submitted, claimed,
             finished, delta from chain where lane = $1 and n > $2 order by n limit $3";
        const PAGE: i64 = 2_000;
        let mut memory = self.newest_snapshot(connection, lane).await?;
        let mut after = memory
            .as_ref()
            .map_or(-1, |memory| as_stored(memory.link().n));
        loop {
            let statement = sqlx::query(CHAIN)
                .bind(number(lane))
                .bind(after)
                .bind(PAGE)
                .fetch_all(&mut *connection);
            let page = self.timed("chain_replay", "select", statement).await?;
            for row in &page {
                let previous = memory.as_ref().map(Lane::link).unwrap_or_default();
                let row = read_row(lane, previous, row)?;
                match &mut memory {
                    None => memory = Some(Lane::begin(&row).map_err(misfit)?),
                    Some(memory) => memory.apply(&row).map_err(misfit)?,
                }
            }
            match (page.len() as i64 == PAGE, &memory) {
                (true, Some(memory)) => after = as_stored(memory.link().n),
                (_, Some(_)) => break,
                (_, None) => {
                    let what = format!("lane {lane} has no rows");
                    return Err(Error::Inconsistent {
                        table: "chain",
                        what,
                    });
                }
            }
        }
        memory.ok_or(Error::Inconsistent {
            table: "chain",
            what: format!("lane {lane}"),
        })
    }

    async fn write_take_over(
        &self,
        connection: &mut PgConnection,
        lease: &LaneLease,
        rows: &[Row; 2],
    ) -> Result<(), Error> {
        // The lock makes a successor wait for this transaction; see leader.rs for why it is the key's.
        const LEASE: &str = "select 1 from lane_lease where lane = $1 and epoch = $2
             and incarnation = $3 and expires_at > clock_timestamp() for key share";
        const THERE: &str = "select 1 from chain where lane = $1 and n = $2 and batch = $3";
        let mut transaction = connection.begin().await.map_err(Error::of("take_over"))?;
        // What the old owner has in flight is waited for.
        sqlx::query("set local lock_timeout = 0")
            .execute(&mut *transaction)
            .await
            .map_err(Error::of("take_over"))?;
        let valid = sqlx::query(LEASE)
            .bind(number(lease.lane))
            .bind(lease.epoch)
            .bind(lease.incarnation)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(Error::of("take_over"))?;
        if valid.is_none() {
            return Err(Error::LeaseOver {
                lane: lease.lane.0,
                epoch: lease.epoch,
            });
        }
        let first = &rows[0];
        let there = sqlx::query(THERE)
            .bind(number(first.lane))
            .bind(as_stored(first.previous.n))
            .bind(Uuid::from_u128(first.previous.batch))
            .fetch_optional(&mut *transaction)
            .await
            .map_err(Error::of("take_over"))?;
        if there.is_none() {
            let detail = format!("row {} is gone", first.previous.n);
            return Err(Error::Deposed {
                statement: "take_over",
                detail,
            });
        }
        for row in rows {
            insert_unfenced(&mut transaction, row).await?;
        }
        if rows[1].delta.inbox_read.is_some() {
            forget_transactions(&mut transaction, lease.lane).await?;
        }
        transaction.commit().await.map_err(Error::of("take_over"))
    }
}

/// The number of the server process that serves a connection.
async fn backend_of(connection: &mut PgConnection) -> Result<i32, Error> {
    sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(connection)
        .await
        .map_err(Error::of("take_over"))
}

/// Inserts the first rows of new lanes, which differ in nothing but the lane.
pub(crate) async fn insert_genesis(
    connection: &mut PgConnection,
    lanes: &[i16],
    at: Micros,
) -> Result<(), Error> {
    const INSERT: &str = "insert into chain (lane, n, batch, epoch, kind, at, next_seq, submitted,
         claimed, finished, delta)
         select lane, $2, $3, $4, $5, $6, $7, 0, 0, 0, $8 from unnest($1::int2[]) lane";
    let row = Row::genesis(LaneId(0), at);
    sqlx::query(INSERT)
        .bind(lanes)
        .bind(as_stored(row.link.n))
        .bind(Uuid::from_u128(row.link.batch))
        .bind(row.epoch)
        .bind(row.kind.number())
        .bind(Timestamp(row.at))
        .bind(as_stored(row.next_seq))
        .bind(row.delta.encode())
        .execute(connection)
        .await
        .map_err(Error::of("chain_genesis"))?;
    Ok(())
}

/// Inserts a row whose place the caller has made sure of in this transaction.
async fn insert_unfenced(connection: &mut PgConnection, row: &Row) -> Result<(), Error> {
    const INSERT: &str = "insert into chain (lane, n, batch, epoch, kind, jump_to, at, next_seq,
         submitted, claimed, finished, delta) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    sqlx::query(INSERT)
        .bind(number(row.lane))
        .bind(as_stored(row.link.n))
        .bind(Uuid::from_u128(row.link.batch))
        .bind(row.epoch)
        .bind(row.kind.number())
        .bind(jump_to(row.kind))
        .bind(Timestamp(row.at))
        .bind(as_stored(row.next_seq))
        .bind(as_stored(row.totals.submitted))
        .bind(as_stored(row.totals.claimed))
        .bind(as_stored(row.totals.finished))
        .bind(row.delta.encode())
        .execute(connection)
        .await
        .map_err(Error::of("chain_insert"))?;
    Ok(())
}

/// In a database that was moved, entries of an inbox carry the numbers of transactions of the last one: from here
/// on they are those of one that ended long ago.
async fn forget_transactions(connection: &mut PgConnection, lane: LaneId) -> Result<(), Error> {
    const FORGET: &str = "update inbox set xid = '3'::xid8
         where lane = $1 and xid >= pg_snapshot_xmax(pg_current_snapshot())";
    sqlx::query(FORGET)
        .bind(number(lane))
        .execute(connection)
        .await
        .map_err(Error::of("inbox_forget"))?;
    Ok(())
}

pub(crate) fn jump_to(kind: RowKind) -> Option<i64> {
    match kind {
        RowKind::Jump { to } => Some(as_stored(to)),
        _ => None,
    }
}

/// Numbers stay far below 2^63: rows count microseconds, executions have 43 bits.
pub(crate) fn as_stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn as_read(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn read_row(lane: LaneId, previous: Link, row: &PgRow) -> Result<Row, Error> {
    let read = Error::of("chain_replay");
    let n = as_read(row.try_get(0).map_err(&read)?);
    let batch: Uuid = row.try_get(1).map_err(&read)?;
    let jump_to: Option<i64> = row.try_get(4).map_err(&read)?;
    let unreadable = |error: domain::lane::CodecError| Error::Inconsistent {
        table: "chain",
        what: format!("lane {lane}, row {n}: {error}"),
    };
    let kind = row.try_get(3).map_err(&read)?;
    let delta: &[u8] = row.try_get(10).map_err(&read)?;
    Ok(Row {
        lane,
        link: Link {
            n,
            batch: batch.as_u128(),
        },
        previous,
        kind: RowKind::from_number(kind, jump_to.map(as_read)).map_err(unreadable)?,
        epoch: row.try_get(2).map_err(&read)?,
        at: row.try_get::<Timestamp, _>(5).map_err(&read)?.0,
        next_seq: as_read(row.try_get(6).map_err(&read)?),
        totals: Totals {
            submitted: as_read(row.try_get(7).map_err(&read)?),
            claimed: as_read(row.try_get(8).map_err(&read)?),
            finished: as_read(row.try_get(9).map_err(&read)?),
        },
        delta: Delta::decode(delta).map_err(unreadable)?,
    })
}

fn apply_all(lane: &mut Lane, rows: &[Row]) -> Result<(), Error> {
    rows.iter()
        .try_for_each(|row| lane.apply(row))
        .map_err(misfit)
}

fn misfit(error: domain::lane::ApplyError) -> Error {
    Error::Inconsistent {
        table: "chain",
        what: error.to_string(),
    }
}
