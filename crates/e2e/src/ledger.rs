//! What the database says, independently of the API.

use std::collections::HashMap;

use anyhow::{Context, Result};
use domain::ExecutionId;
use sqlx::postgres::{PgPool, PgPoolOptions};

/// The states that are final, as they are stored.
const FINAL: [i16; 4] = [6, 7, 8, 9];

/// Reads the rows that schedulers wrote.
#[derive(Clone, Debug)]
pub struct Ledger {
    pool: PgPool,
}

/// Where an execution's rows are.
type Place = (i16, i64);

impl Ledger {
    /// Opens the database of a cluster.
    ///
    /// # Errors
    /// It can't be reached.
    pub async fn open(database_url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(2);
        let pool = pool.connect(database_url).await;
        Ok(Self {
            pool: pool.context("can't read the cluster's database")?,
        })
    }

    /// The pool, for questions that are one test's own.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How many final outcomes each of these executions has; those without have 0.
    ///
    /// # Errors
    /// An id is none, or the database can't be read.
    pub async fn final_outcomes<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<HashMap<&'a str, i64>> {
        const COUNT: &str = "select lane, seq, count(*)
             from outcome join unnest($1::int2[], $2::int8[]) as asked(lane, seq) using (lane, seq)
             where state = any($3) group by lane, seq";
        let ids: Vec<&str> = ids.into_iter().collect();
        let places = ids
            .iter()
            .map(|id| place(id))
            .collect::<Result<Vec<Place>>>()?;
        let (lanes, seqs): (Vec<i16>, Vec<i64>) = places.iter().copied().unzip();
        let rows: Vec<(i16, i64, i64)> = sqlx::query_as(COUNT)
            .bind(lanes)
            .bind(seqs)
            .bind(&FINAL[..])
            .fetch_all(&self.pool)
            .await?;
        let counts: HashMap<Place, i64> = rows
            .into_iter()
            .map(|(lane, seq, count)| ((lane, seq), count))
            .collect();
        let count = |place| counts.get(place).copied().unwrap_or(0);
        Ok(ids.into_iter().zip(places.iter().map(count)).collect())
    }

    /// How many executions have no final outcome, and how many have more than one, of all there are.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn unended_and_ended_twice(&self) -> Result<(i64, i64)> {
        const COUNT: &str =
            "select count(*) filter (where ends = 0), count(*) filter (where ends > 1)
             from (select count(outcome.seq) as ends from execution
                   left join outcome on outcome.lane = execution.lane
                       and outcome.seq = execution.seq and outcome.state = any($1)
                   group by execution.lane, execution.seq) as each";
        Ok(sqlx::query_as(COUNT)
            .bind(&FINAL[..])
            .fetch_one(&self.pool)
            .await?)
    }

    /// The lanes of which this scheduler is the owner.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn lanes_of(&self, scheduler: &str) -> Result<Vec<i16>> {
        const OWNED: &str = "select lane from lane_lease
             where holder = $1 and expires_at > clock_timestamp() order by lane";
        Ok(sqlx::query_scalar(OWNED)
            .bind(scheduler)
            .fetch_all(&self.pool)
            .await?)
    }

    /// How many of these lanes have an owner other than this scheduler.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn owned_by_others(&self, lanes: &[i16], scheduler: &str) -> Result<usize> {
        const OTHERS: &str = "select count(*) from lane_lease
             where lane = any($1) and holder <> $2 and expires_at > clock_timestamp()";
        let count: i64 = sqlx::query_scalar(OTHERS)
            .bind(lanes)
            .bind(scheduler)
            .fetch_one(&self.pool)
            .await?;
        Ok(usize::try_from(count)?)
    }

    /// How many lanes the installation has.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn lanes(&self) -> Result<usize> {
        let count: i64 = sqlx::query_scalar("select count(*) from lane_lease")
            .fetch_one(&self.pool)
            .await?;
        Ok(usize::try_from(count)?)
    }
}

fn place(id: &str) -> Result<Place> {
    let parsed: ExecutionId = id
        .parse()
        .ok()
        .with_context(|| format!("{id:?} is no execution's id"))?;
    Ok((
        i16::try_from(parsed.lane().0)?,
        i64::try_from(parsed.seq())?,
    ))
}
