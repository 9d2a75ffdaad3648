//! What takes long and is outside the leader's fence, since PostgreSQL refuses it in a transaction: leaves
//! that are out of use are detached and dropped, leaves whose time is over are frozen. Harmless when done
//! twice.

use std::time::Duration;

use async_trait::async_trait;
use domain::Micros;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::database::{Dedicated, Purpose};
use crate::leader::micros;
use crate::{Database, Error};

/// Leaves that are frozen at a time.
const FROZEN: i64 = 8;

/// A connection for what takes long.
pub struct Housekeeper(Dedicated);

impl Housekeeper {
    /// A housekeeper that isn't connected yet.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self(Dedicated::new(database, Purpose::Housekeeping))
    }
}

/// What becomes of windows that are over.
#[async_trait]
pub trait KeepHouse: Send {
    /// Removes the leaves of windows that have been out of use for so long. One that somebody still reads
    /// stays until the next time; nobody waits for it. Gives how many went.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn remove_windows(&mut self, unused: Duration) -> Result<usize, Error>;

    /// Freezes leaves whose time was over at `before`, so that no vacuum ever needs to look at them. Gives how
    /// many it froze.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn freeze_windows(&mut self, before: Micros) -> Result<usize, Error>;
}

#[async_trait]
impl KeepHouse for Housekeeper {
    async fn remove_windows(&mut self, unused: Duration) -> Result<usize, Error> {
        const UNUSED_LEAVES: &str = r#"select table_name, leaf from "window"
             where state = 4 and changed < clock_timestamp() - $1 * interval '1 microsecond'
             order by to_hour"#;
        let mut connection = self.0.take().await?;
        let unused: Vec<(String, String)> = sqlx::query_as(UNUSED_LEAVES)
            .bind(micros(unused))
            .fetch_all(&mut connection)
            .await
            .map_err(Error::of("unused_windows"))?;
        let mut removed = 0;
        for (table, leaf) in unused {
            match remove(&mut connection, &table, &leaf).await {
                Ok(()) => removed += 1,
                Err(error) if error.is_refusal() => tracing::info!(event = "window_in_use", leaf,
                    %error, "a window that is out of use can't be removed yet"),
                Err(error) => return Err(error),
            }
        }
        self.0.put_back(connection);
        Ok(removed)
    }

    async fn freeze_windows(&mut self, before: Micros) -> Result<usize, Error> {
        const PAST: &str = r#"select leaf from "window"
             where state < 4 and to_hour <= $1 and not frozen order by to_hour limit $2"#;
        const NOTE: &str = r#"update "window" set frozen = true where leaf = $1"#;
        let mut connection = self.0.take().await?;
        let past: Vec<String> = sqlx::query_scalar(PAST)
            .bind(before.hour().0)
            .bind(FROZEN)
            .fetch_all(&mut connection)
            .await
            .map_err(Error::of("past_windows"))?;
        for leaf in &past {
            let freeze = format!("vacuum (freeze) {leaf}");
            run(&mut connection, "freeze_window", freeze).await?;
            sqlx::query(NOTE)
                .bind(leaf)
                .execute(&mut connection)
                .await
                .map_err(Error::of("freeze_window"))?;
        }
        self.0.put_back(connection);
        Ok(past.len())
    }
}

/// Detaches a leaf and drops it. A detachment that was cut off is finished first; DROP waits for those who
/// read the leaf by its own name, but not long, since it would stall whoever comes behind it.
async fn remove(connection: &mut PgConnection, table: &str, leaf: &str) -> Result<(), Error> {
    const PENDING: &str =
        "select inhdetachpending from pg_inherits where inhrelid = to_regclass($1)";
    const FORGET: &str = r#"delete from "window" where leaf = $1 and state = 4
         returning table_name, from_hour"#;
    const FORGET_LANES: &str = "delete from let_go where table_name = $1 and from_hour = $2";
    let pending: Option<bool> = sqlx::query_scalar(PENDING)
        .bind(leaf)
        .fetch_optional(&mut *connection)
        .await
        .map_err(Error::of("detach_window"))?;
    let how = match pending {
        Some(true) => Some("finalize"),
        Some(false) => Some("concurrently"),
        None => None,
    };
    if let Some(how) = how {
        let detach = format!("alter table {table} detach partition {leaf} {how}");
        run(connection, "detach_window", detach).await?;
    }
    run(
        connection,
        "drop_window",
        format!("drop table if exists {leaf}"),
    )
    .await?;
    let mut transaction = connection
        .begin()
        .await
        .map_err(Error::of("forget_window"))?;
    let gone: Option<(String, i32)> = sqlx::query_as(FORGET)
        .bind(leaf)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(Error::of("forget_window"))?;
    if let Some((table, from)) = gone {
        sqlx::query(FORGET_LANES)
            .bind(table)
            .bind(from)
            .execute(&mut *transaction)
            .await
            .map_err(Error::of("forget_window"))?;
    }
    transaction
        .commit()
        .await
        .map_err(Error::of("forget_window"))?;
    tracing::info!(event = "window_removed", leaf, "a window is gone");
    Ok(())
}

async fn run(
    connection: &mut PgConnection,
    name: &'static str,
    statement: String,
) -> Result<(), Error> {
    let done = sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await;
    done.map(drop).map_err(Error::of(name))
}
