use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

use crate::Error;

/// Told of every statement: its name, its kind (insert, select, update, delete) and how long it took.
pub type QueryTimes = Arc<dyn Fn(&'static str, &'static str, Duration) + Send + Sync>;

/// How long any statement is waited for: longer than the database's own limit on it, for when the
/// database can't be heard at all.
const LIMIT: Duration = Duration::from_secs(12);

/// How long a connection that is given back may take to show that it is of use.
const RELEASED_WITHIN: Duration = Duration::from_secs(3);

/// A planner that takes the index whatever the statistics say: those of a hot table are always wrong. What
/// is off is still done where nothing else will do, at a cost that would have every such statement compiled
/// first, for half a second each time.
const BY_INDEX: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_sort", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// As whom tenants' rows are read: the database shows it those of the tenant that a transaction names.
const READER: &str = "watchwork_reader";

/// The database of one scheduler: a small pool for its own reads and slow changes, one as large for the reads
/// of tenants; writers and leases take connections of their own.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
    pub(crate) pool: PgPool,
    readers: PgPool,
    times: QueryTimes,
}

impl Database {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// The URL is malformed, the server can't be reached, a migration fails, or its role may not read for
    /// tenants.
    pub async fn connect(url: &str, pool_size: u32, times: QueryTimes) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url)
            .map_err(Error::of("connect"))?
            .application_name("watchwork-scheduler")
            // Whatever a role's own schema is called: the tables are where the migrations put them.
            .options([("search_path", "public")])
            .statement_cache_capacity(256);
        let pools = PgPoolOptions::new()
            .max_connections(pool_size)
            .acquire_timeout(Duration::from_secs(5))
            .test_before_acquire(false)
            .after_release(|connection, _| Box::pin(still_answers(connection)));
        let pooled = options
            .clone()
            .options([("statement_timeout", "5s")])
            .options(BY_INDEX);
        let pool = pools.clone().connect_with(pooled.clone());
        let pool = pool.await.map_err(Error::of("connect"))?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        let reading = pooled.options([("role", READER)]);
        let readers = pools.connect_with(reading).await;
        let readers = readers.map_err(|source| Error::NoReader { source })?;
        Ok(Self {
            options,
            pool,
            readers,
            times,
        })
    }

    /// The settings of the server with which a crash may lose what it has acknowledged, as `name=value`.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn unsafe_settings(&self) -> Result<Vec<String>, Error> {
        const OFF: &str = "select name || '=' || setting from pg_settings
             where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off'
             order by name";
        let select = sqlx::query_scalar(OFF).fetch_all(&self.pool);
        self.timed("unsafe_settings", "select", select).await
    }

    /// A transaction that sees one tenant's rows. It is over when it is dropped. Whoever stops waiting for it doesn't
    /// stop its beginning: one that was half begun would stay open in the pool, for whoever is next. But a connection
    /// that the network has silenced is given up in time.
    pub(crate) async fn read_for(
        &self,
        tenant: i32,
    ) -> Result<Transaction<'static, Postgres>, Error> {
        let begin = format!("begin read only; set local watchwork.tenant = '{tenant}'");
        let readers = self.readers.clone();
        let begin = tokio::spawn(async move {
            let begun = tokio::time::timeout(LIMIT, readers.begin_with(AssertSqlSafe(begin)));
            begun.await.unwrap_or_else(|_| Err(silent()))
        });
        let begun = async { begin.await.unwrap_or(Err(sqlx::Error::WorkerCrashed)) };
        self.timed("read_for_tenant", "select", begun).await
    }

    /// A connection for writing, bounded in time. It waits for the locks of others for so long: a foreign
    /// transaction that holds an idempotency key must not hold up a lane.
    async fn writer(&self, lock_timeout: &str) -> Result<PgConnection, Error> {
        let bounds = [
            ("statement_timeout", "10s"),
            ("lock_timeout", lock_timeout),
            ("idle_in_transaction_session_timeout", "3s"),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
        ];
        let options = self.options.clone().options(bounds).options(BY_INDEX);
        PgConnection::connect_with(&options)
            .await
            .map_err(Error::of("connect_writer"))
    }

    /// A connection for leases: what waits longer than a lease may is of no use.
    async fn short(&self) -> Result<PgConnection, Error> {
        let options = self.options.clone().options([
            ("statement_timeout", "3s"),
            ("idle_in_transaction_session_timeout", "3s"),
        ]);
        PgConnection::connect_with(&options)
            .await
            .map_err(Error::of("connect_lease_keeper"))
    }

    /// A connection for what takes long and holds nobody up: it gives up early where it must wait for a lock.
    async fn patient(&self) -> Result<PgConnection, Error> {
        let options = self.options.clone().options([
            ("statement_timeout", "60s"),
            ("lock_timeout", "500ms"),
            ("idle_in_transaction_session_timeout", "3s"),
        ]);
        PgConnection::connect_with(&options)
            .await
            .map_err(Error::of("connect_housekeeper"))
    }

    pub(crate) fn connections(&self) -> (u32, u32, u32) {
        let pools = [&self.pool, &self.readers];
        let idle = pools.iter().map(|pool| pool.num_idle()).sum::<usize>();
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        let all: u32 = pools.iter().map(|pool| pool.size()).sum();
        let max = pools.map(|pool| pool.options().get_max_connections());
        (all.saturating_sub(idle), idle, max.iter().sum())
    }

    pub(crate) async fn answer_time(&self) -> Result<Duration, Error> {
        let begin = Instant::now();
        sqlx::query("select 1")
            .execute(&self.pool)
            .await
            .map_err(Error::of("ping"))?;
        Ok(begin.elapsed())
    }

    /// Runs a named statement and tells how long it took.
    pub(crate) async fn timed<T>(
        &self,
        name: &'static str,
        kind: &'static str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let result = within(LIMIT, async { statement.await.map_err(Error::of(name)) }).await;
        (self.times)(name, kind, begin.elapsed());
        result
    }
}

/// The pool tests what it gets back as well, but for as long as it takes: on a connection that the network
/// has silenced that is for ever, and its place in the pool is gone until then.
async fn still_answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let answer = tokio::time::timeout(RELEASED_WITHIN, connection.ping()).await;
    // An error, and not `false`: whoever is silent isn't told of the end.
    answer.map_err(|_| silent())?.map(|()| true)
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// What the database says in time; past it nobody listens any more.
///
/// # Errors
/// [`Error::Silent`], or what the database says.
pub async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or(Err(Error::Silent { limit }))
}

/// What a connection of one's own is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Writing,
    Posting,
    Leases,
    Housekeeping,
}

/// A connection of one's own: made when it is needed, and made anew after an error, whose transaction
/// or answer may still be under way on the old one.
pub(crate) struct Dedicated {
    pub(crate) database: Database,
    purpose: Purpose,
    connection: Option<PgConnection>,
}

impl Dedicated {
    pub(crate) fn new(database: Database, purpose: Purpose) -> Self {
        Self {
            database,
            purpose,
            connection: None,
        }
    }

    /// The connection, taken out: whoever succeeds puts it back.
    pub(crate) async fn take(&mut self) -> Result<PgConnection, Error> {
        match (self.connection.take(), self.purpose) {
            (Some(connection), _) => Ok(connection),
            (None, Purpose::Writing) => self.database.writer("100ms").await,
            (None, Purpose::Posting) => self.database.writer("500ms").await,
            (None, Purpose::Leases) => self.database.short().await,
            (None, Purpose::Housekeeping) => self.database.patient().await,
        }
    }

    pub(crate) fn put_back(&mut self, connection: PgConnection) {
        self.connection = Some(connection);
    }
}

#[cfg(test)]
mod tests {
    use crate::plans::Plans;

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_any_more_leaves_no_transaction_open() {
        let plans = Plans::new().await;
        let database = &plans.database;
        for _ in 0..10 {
            tokio::select! {
                biased;
                _ = database.read_for(1) => panic!("nothing begins without a round trip"),
                () = std::future::ready(()) => {}
            }
            // The pool has one connection: what was given up has let go of it.
            let mut next = database.readers.acquire().await.unwrap();
            let read_only: String =
                sqlx::query_scalar("select current_setting('transaction_read_only')")
                    .fetch_one(&mut *next)
                    .await
                    .unwrap();
            assert_eq!(
                read_only, "off",
                "it is in the transaction that was given up"
            );
        }
    }
}
