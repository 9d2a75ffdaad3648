//! A window's border that comes when a test wants it.

use anyhow::{Result, ensure};
use e2e::{Rig, until};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// The border between the window of today and that of tomorrow, which are both there: they are made
/// ahead.
pub(crate) struct Border<'a> {
    pool: &'a PgPool,
    today: i32,
}

impl<'a> Border<'a> {
    /// Makes transactions that write a key wait inside themselves, from a time that [`come_in`](Self::come_in)
    /// says to another one.
    pub(crate) async fn of(rig: &'a Rig) -> Result<Self> {
        const HOLD: &str = "create table public.held (began_before timestamptz, until timestamptz);
            create function public.hold() returns trigger language plpgsql as $$
            begin
                while exists (select from public.held
                    where now() < began_before and clock_timestamp() < until) loop
                    perform pg_sleep(0.01);
                end loop;
                return null;
            end $$;
            create trigger hold after insert on idempotency for each statement
                execute function public.hold();";
        let pool = rig.ledger.pool();
        sqlx::raw_sql(HOLD).execute(pool).await?;
        let today = sqlx::query_scalar("select idempotency_window(now())");
        let today = today.fetch_one(pool).await?;
        let ahead: i64 = sqlx::query_scalar(
            "select count(*) from \"window\" where table_name = 'idempotency'
                 and from_hour in ($1, $1 + 24)",
        )
        .bind(today)
        .fetch_one(pool)
        .await?;
        ensure!(ahead == 2, "{ahead} of two windows are there");
        Ok(Self { pool, today })
    }

    /// Puts the border so many seconds ahead of now, or behind it.
    pub(crate) async fn put(&self, seconds: f64) -> Result<f64> {
        let at: f64 =
            sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8 + $1")
                .bind(seconds)
                .fetch_one(self.pool)
                .await?;
        let (today, tomorrow) = (self.today, self.today + 24);
        let window = format!(
            "create or replace function public.idempotency_window(at timestamptz) returns int4
                 language sql immutable as $$
                 select case when at < to_timestamp({at}) then {today} else {tomorrow} end $$"
        );
        sqlx::raw_sql(AssertSqlSafe(window))
            .execute(self.pool)
            .await?;
        Ok(at)
    }

    /// Puts the border so many seconds ahead, and makes every transaction that begins before it and writes
    /// a key last until a while after it.
    pub(crate) async fn come_in(&self, seconds: f64) -> Result<Crossing<'a>> {
        const HOLD: &str = "with gone as (delete from public.held)
             insert into public.held values (to_timestamp($1), to_timestamp($1 + 0.7))";
        let at = self.put(seconds).await?;
        sqlx::query(HOLD).bind(at).execute(self.pool).await?;
        Ok(Crossing {
            pool: self.pool,
            at,
        })
    }
}

/// A border that is about to be crossed.
pub(crate) struct Crossing<'a> {
    pool: &'a PgPool,
    at: f64,
}

impl Crossing<'_> {
    /// Waits until a transaction that has written a key is held open, before the border.
    pub(crate) async fn a_key_is_written_before(&self) -> Result<()> {
        const HELD: &str = "select exists (select from pg_stat_activity
             where datname = current_database() and wait_event = 'PgSleep')";
        until("a key is written before the border", SOON, async || {
            ensure!(
                !self.is_behind().await?,
                "no key was written before the border"
            );
            let held = sqlx::query_scalar(HELD).fetch_one(self.pool).await?;
            Ok(held)
        })
        .await
    }

    pub(crate) async fn is_crossed(&self) -> Result<()> {
        until("the border is crossed", SOON, async || {
            self.is_behind().await
        })
        .await
    }

    async fn is_behind(&self) -> Result<bool> {
        let behind = sqlx::query_scalar("select clock_timestamp() > to_timestamp($1)");
        Ok(behind.bind(self.at).fetch_one(self.pool).await?)
    }
}

/// Waits until somebody waits for somebody else's transaction.
pub(crate) async fn somebody_waits(rig: &Rig) -> Result<()> {
    const WAITS: &str = "select exists (select from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock')";
    until("somebody waits for a key", SOON, async || {
        Ok(sqlx::query_scalar(WAITS)
            .fetch_one(rig.ledger.pool())
            .await?)
    })
    .await
}
