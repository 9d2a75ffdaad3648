//! A tenant whose service submits in SQL, and the owner of the lane that its work comes to.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use cluster::testing::{FreshDatabase, fresh_database};
use domain::lane::{InboxMark, Lane};
use domain::{ExecutionId, LaneId};
use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _};
use store::{Database, InboxEntry, KnowNames, WriteLanes, Writer};
use uuid::Uuid;

use crate::world::{self, LANES, World};

pub(crate) struct Shop {
    pub(crate) world: World,
    pub(crate) tenant: i32,
    /// The queue `default`, which lives in the lane alone.
    pub(crate) queue: i32,
    pub(crate) lane: Lane,
    pub(crate) writer: Writer,
    read: InboxMark,
}

impl Shop {
    /// The tenant `shop` with a queue `default` in one lane and a queue `wide` in all; workers announced the
    /// type `noop`.
    pub(crate) async fn new() -> Self {
        let mut world = World::new().await;
        let (lane, writer, _) = world.owner().await;
        let database = &world.database;
        let tenant = database.ensure_tenant("shop").await.unwrap();
        let all: Vec<LaneId> = (0..LANES).map(LaneId).collect();
        for (name, lanes) in [("default", &[lane.id()][..]), ("wide", &all)] {
            database.ensure_queue(tenant, name, lanes).await.unwrap();
        }
        let queue = database.queue_by_name(tenant, "default").await.unwrap();
        database.announce_types(0, &["noop".into()]).await.unwrap();
        Self {
            tenant,
            queue: queue.unwrap().number,
            lane,
            writer,
            read: InboxMark::default(),
            world,
        }
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        connect(&self.world.fresh).await
    }

    pub(crate) async fn execute(&self, statements: &str) {
        run(&mut self.connect().await, statements).await;
    }

    /// A connection with an open transaction.
    pub(crate) async fn begin(&self) -> PgConnection {
        let mut connection = self.connect().await;
        run(&mut connection, "begin").await;
        connection
    }

    /// What has come to the lane since the last time.
    pub(crate) async fn read_inbox(&mut self) -> Vec<InboxEntry> {
        let lanes = [(self.lane.id(), self.read.clone())];
        let bounds = (self.world.now, 100);
        let reads = self.writer.read_inbox(&self.world.windows, &lanes, bounds);
        let mut entries = Vec::new();
        for read in reads.await.unwrap() {
            self.read = read.mark;
            entries.extend(read.entries);
        }
        entries
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        let mut connection = self.connect().await;
        value(&mut connection, &format!("select count(*) from {table}")).await
    }

    /// Comes back when some session of the database waits for another's lock.
    pub(crate) async fn until_someone_waits(&self) {
        const WAITING: &str = "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'";
        self.until(WAITING).await;
    }

    /// Comes back when a query counts something.
    pub(crate) async fn until(&self, query: &str) {
        let mut connection = self.connect().await;
        let deadline = Instant::now() + Duration::from_secs(10);
        while value::<i64>(&mut connection, query).await == 0 {
            assert!(Instant::now() < deadline, "nothing yet: {query}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A connection that makes what it makes beside our tables, whatever its role's own schema is called.
async fn connect(fresh: &FreshDatabase) -> PgConnection {
    let options = PgConnectOptions::from_str(fresh.url()).unwrap();
    let options = options.options([("search_path", "public")]);
    PgConnection::connect_with(&options).await.unwrap()
}

/// A database that has its schema and nothing in it.
pub(crate) async fn bare() -> (FreshDatabase, Database, PgConnection) {
    let fresh = fresh_database().await;
    let database = world::connect(fresh.url()).await;
    let connection = connect(&fresh).await;
    (fresh, database, connection)
}

/// What `watchwork.submit()` returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) id: ExecutionId,
    pub(crate) duplicate: bool,
}

/// How PostgreSQL refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.code, self.field, self.message)
    }
}

/// Submits with arguments as SQL has them.
pub(crate) async fn submit(
    connection: &mut PgConnection,
    arguments: &str,
) -> Result<Answer, Refused> {
    let sql = format!("select execution_id, duplicate from watchwork.submit({arguments})");
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(|error| refused(&error))?;
    let id: Uuid = row.get(0);
    Ok(Answer {
        id: ExecutionId::from_bytes(id.into_bytes()),
        duplicate: row.get(1),
    })
}

fn refused(error: &sqlx::Error) -> Refused {
    let error = error.as_database_error().unwrap();
    let error = error.downcast_ref::<PgDatabaseError>();
    Refused {
        code: error.code().to_owned(),
        field: error.column().unwrap_or_default().to_owned(),
        message: error.message().to_owned(),
    }
}

/// Runs statements; tells how the first of them failed that did.
pub(crate) async fn try_run(
    connection: &mut PgConnection,
    statements: &str,
) -> Result<(), Refused> {
    let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
    let done = done.execute(connection).await;
    done.map(drop).map_err(|error| refused(&error))
}

pub(crate) async fn run(connection: &mut PgConnection, statements: &str) {
    try_run(connection, statements).await.unwrap();
}

/// The one value that a query gives.
pub(crate) async fn value<T>(connection: &mut PgConnection, query: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap()
}
