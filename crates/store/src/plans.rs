//! What PostgreSQL makes of our statements: for tests.

use std::sync::Arc;
use std::time::Duration;

use cluster::testing::{FreshDatabase, fresh_database};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use uuid::Uuid;

use crate::{Database, Election, Lead, Storage, Term, TermHolder, WindowMap};

/// An empty database with windows, and one session of the pool.
pub(crate) struct Plans {
    pub(crate) database: Database,
    pub(crate) windows: WindowMap,
    pub(crate) term: Term,
    _fresh: FreshDatabase,
}

impl Plans {
    pub(crate) async fn new() -> Self {
        let fresh = fresh_database().await;
        let database = Database::connect(fresh.url(), 1, Arc::new(|_, _, _| {}))
            .await
            .unwrap();
        let holder = TermHolder {
            incarnation: Uuid::new_v4(),
            label: "test".into(),
            lease: Duration::from_secs(60),
        };
        let mut election = Election::new(database.clone(), holder);
        let term = election.campaign().await.unwrap().unwrap();
        election.make_windows(&term, 24, 25).await.unwrap();
        let windows = database.windows().await.unwrap();
        Self {
            database,
            windows,
            term,
            _fresh: fresh,
        }
    }

    pub(crate) async fn execute(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        self.database.pool.execute(statement).await.unwrap();
    }

    /// The plan that a session of the pool makes for a statement, whatever its arguments.
    pub(crate) async fn of(&self, types: &str, sql: &str, arguments: &str) -> String {
        let mut connection = self.database.pool.acquire().await.unwrap();
        plan(&mut connection, types, sql, arguments).await
    }

    /// The same for a transaction that reads for a tenant.
    pub(crate) async fn of_reader(&self, types: &str, sql: &str, arguments: &str) -> String {
        let mut reader = self.database.read_for(1).await.unwrap();
        plan(&mut reader, types, sql, arguments).await
    }
}

async fn plan(connection: &mut PgConnection, types: &str, sql: &str, arguments: &str) -> String {
    let prepare = format!("prepare p({types}) as {sql}");
    connection.execute(AssertSqlSafe(prepare)).await.unwrap();
    let explain = AssertSqlSafe(format!("explain execute p({arguments})"));
    let lines: Vec<String> = sqlx::query_scalar(explain)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    connection.execute("deallocate p").await.unwrap();
    lines.join("\n")
}
