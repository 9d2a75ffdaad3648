//! What the tables say at the end, read with plain SQL as docs/storage.md describes them.

use anyhow::{Context, Result};
use sqlx::Row;
use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};

use crate::clock::{self, Micros};
use crate::history::{ChainRow, Ended, ExecutionRow, History, OutcomeRow, Setting, State};
use crate::place::Place;
use crate::site::WORKER_LEASE;

/// Reads the rows of one database.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pool: PgPool,
}

impl Tables {
    /// Opens a database; it needn't be there yet, and may go and come.
    ///
    /// # Errors
    /// The URL is none.
    pub(crate) fn of(database_url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(2);
        let pool = pool.connect_lazy(database_url);
        Ok(Self {
            pool: pool.context("the database's URL is none")?,
        })
    }

    /// How many executions there are, and how many of them have come to an end.
    ///
    /// # Errors
    /// The database can't be read.
    pub(crate) async fn ended(&self) -> Result<(i64, i64)> {
        const COUNT: &str = "select (select count(*) from execution),
            (select count(distinct (lane, seq)) from outcome where state between 6 and 9)";
        Ok(sqlx::query_as(COUNT).fetch_one(&self.pool).await?)
    }

    /// A history with all rows, which lacks what the logs say.
    ///
    /// # Errors
    /// The database can't be read, or holds what it should not.
    pub(crate) async fn history(&self) -> Result<History> {
        let history = History {
            setting: Setting {
                worker_lease_us: i64::try_from(WORKER_LEASE.as_micros())?,
            },
            executions: self.executions().await?,
            outcomes: self.outcomes(clock::since_1970()).await?,
            chain: self.chain().await?,
            ..History::default()
        };
        self.pool.close().await;
        Ok(history)
    }

    /// The newest database of a run on the server of this one.
    ///
    /// # Errors
    /// There is none, or the server can't be read.
    pub(crate) async fn newest_run(&self) -> Result<String> {
        const NEWEST: &str =
            "select max(datname::text) from pg_database where datname like 'chaos\\_%'";
        let newest: Option<String> = sqlx::query_scalar(NEWEST).fetch_one(&self.pool).await?;
        newest.context("no run has left a database here")
    }

    async fn executions(&self) -> Result<Vec<ExecutionRow>> {
        const ALL: &str = "select lane, seq, coalesce(correlation_id, '') as key from execution
            union all select lane, seq, coalesce(correlation_id, '') from kept_execution";
        let rows = sqlx::query(ALL).fetch_all(&self.pool).await?;
        let row = |row: &PgRow| -> Result<ExecutionRow> {
            Ok(ExecutionRow {
                execution: place(row)?,
                key: row.try_get("key")?,
            })
        };
        rows.iter().map(row).collect()
    }

    async fn outcomes(&self, since_1970: Micros) -> Result<Vec<OutcomeRow>> {
        const ALL: &str = "select lane, seq, fence, attempt, result, state, worker,
                (extract(epoch from claimed_at) * 1000000)::int8 as claimed_us,
                (extract(epoch from at) * 1000000)::int8 as at_us
            from (select * from outcome union all select * from kept_outcome) as each
            order by lane, seq, fence";
        let rows = sqlx::query(ALL).fetch_all(&self.pool).await?;
        let row = |row: &PgRow| -> Result<OutcomeRow> {
            let time = |column| -> Result<Micros> {
                let time: i64 = row.try_get(column)?;
                Ok(time - since_1970)
            };
            Ok(OutcomeRow {
                execution: place(row)?,
                fence: u64::try_from(row.try_get::<i64, _>("fence")?)?,
                attempt: u32::try_from(row.try_get::<i16, _>("attempt")?)?,
                result: Ended::from_number(row.try_get("result")?),
                state: State::from_number(row.try_get("state")?),
                worker: row.try_get("worker")?,
                claimed_at: time("claimed_us")?,
                at: time("at_us")?,
            })
        };
        rows.iter().map(row).collect()
    }

    async fn chain(&self) -> Result<Vec<ChainRow>> {
        const ALL: &str = "select lane, n, jump_to, submitted, claimed, finished
            from chain order by lane, n";
        let rows = sqlx::query(ALL).fetch_all(&self.pool).await?;
        let row = |row: &PgRow| -> Result<ChainRow> {
            Ok(ChainRow {
                lane: row.try_get("lane")?,
                n: row.try_get("n")?,
                jump_to: row.try_get("jump_to")?,
                submitted: row.try_get("submitted")?,
                claimed: row.try_get("claimed")?,
                finished: row.try_get("finished")?,
            })
        };
        rows.iter().map(row).collect()
    }
}

fn place(row: &PgRow) -> Result<Place> {
    Ok(Place {
        lane: row.try_get("lane")?,
        seq: row.try_get("seq")?,
    })
}
