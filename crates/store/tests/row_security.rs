//! Row security on a real PostgreSQL: who reads for a tenant sees that tenant's rows, by whatever table.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

use std::sync::Arc;
use std::time::Duration;

use cluster::testing::{FreshDatabase, fresh_database};
use domain::LaneId;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use store::{
    Database, Election, Error, ExecutionPlace, Lead, ReadExecutions, Storage, Term, TermHolder,
    WindowMap,
};
use uuid::Uuid;

/// What has rows of tenants and is read, or may be, by name.
const TABLES: [&str; 10] = [
    "execution",
    "outcome",
    "due",
    "idempotency",
    "inbox",
    "kept_execution",
    "kept_outcome",
    "kept_due",
    "checkpoint",
    "kept_checkpoint",
];

/// A row each of tenants 1 and 2 in every table.
const FILL: &str = "
    insert into execution (win, lane, seq, tenant, queue, job_type, priority, at, timeout_us,
        retry_policy, payload)
    select {win}, 0, t, t, t, 1, 3, now(), 1, 1, '' from generate_series(1, 2) t;
    insert into outcome (win, lane, seq, fence, tenant, queue, attempt, result, state, reason,
        attempts_used, lost_used, worker, claimed_at, queued_us, dispatch_us, run_us, report_us,
        at, trace_kept)
    select win, lane, seq, 1, tenant, queue, 1, 1, 6, 0, 1, 0, 'w', at, 0, 0, 0, 0, at, false
    from execution;
    insert into due (win, lane, due_at, seq, home, tenant, queue, priority, job_type, attempts,
        lost, wait)
    select win, lane, at, seq, win, tenant, queue, 3, 1, 0, 0, 1 from execution;
    insert into kept_execution select * from execution;
    insert into kept_outcome select * from outcome;
    insert into kept_due select * from due;
    insert into checkpoint (win, lane, seq, fence, number, tenant, at, state)
    select win, lane, seq, 1, 1, tenant, at, 'state' from execution;
    insert into kept_checkpoint select * from checkpoint;
    insert into idempotency (win, key, fingerprint, tenant, id)
    select {win} / 24 * 24, gen_random_uuid(), 1, t, gen_random_uuid() from generate_series(1, 2) t;
    insert into inbox (win, lane, kind, seq, tenant, queue, priority, job_type, home)
    select win, lane, 1, seq, tenant, queue, 3, 1, win from execution;";

struct World {
    fresh: FreshDatabase,
    database: Database,
    election: Election,
    term: Term,
    windows: WindowMap,
    /// With the rights of the tests' server.
    connection: PgConnection,
}

impl World {
    async fn new() -> Self {
        let fresh = fresh_database().await;
        let url = fresh.url().to_owned();
        Self::of(fresh, &url).await
    }

    /// A database that is installed and run by the login of a URL.
    async fn of(fresh: FreshDatabase, url: &str) -> Self {
        let database = connect(url).await.unwrap();
        let holder = TermHolder {
            incarnation: Uuid::new_v4(),
            label: "test".into(),
            lease: Duration::from_secs(60),
        };
        let mut election = Election::new(database.clone(), holder);
        let term = election.campaign().await.unwrap().unwrap();
        election.make_windows(&term, 24, 25).await.unwrap();
        let windows = database.windows().await.unwrap();
        let connection = PgConnection::connect(fresh.url()).await.unwrap();
        Self {
            fresh,
            database,
            election,
            term,
            windows,
            connection,
        }
    }

    async fn execute(&mut self, statements: &str) {
        run(&mut self.connection, statements).await;
    }

    async fn fill(&mut self) {
        let win = self.term.now().hour().0.to_string();
        self.execute(&FILL.replace("{win}", &win)).await;
    }

    /// Tables with a tenant for which something is missing: the switches, the owner's or the reader's policy.
    async fn unguarded(&mut self) -> Vec<String> {
        let select = "select c.relname::text from pg_class c
             join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant'
             where c.relkind in ('r', 'p') and not (
                 c.relrowsecurity and c.relforcerowsecurity
                 and (select count(*) from pg_policy p where p.polrelid = c.oid) = 2
                 and exists (select from pg_policy p where p.polrelid = c.oid
                     and p.polroles = array[to_regrole('watchwork_reader')::oid]))";
        let tables = sqlx::query_scalar(select).fetch_all(&mut self.connection);
        tables.await.unwrap()
    }

    /// The tables that hold rows, and their leaves that do.
    async fn tables(&mut self) -> Vec<String> {
        let leaves = r#"select leaf from "window" where table_name = any($1)
             and from_hour <= $2 and to_hour > $2"#;
        let leaves = sqlx::query_scalar(leaves)
            .bind(TABLES.map(str::to_owned))
            .bind(self.term.now().hour().0)
            .fetch_all(&mut self.connection);
        let mut tables: Vec<String> = leaves.await.unwrap();
        assert_eq!(tables.len(), 6);
        tables.extend(TABLES.map(str::to_owned));
        tables
    }

    /// The tenants of which a transaction sees rows in a table.
    async fn seen(&mut self, table: &str) -> Vec<i32> {
        let select = format!("select tenant from {table} order by tenant");
        let tenants = sqlx::query_scalar(AssertSqlSafe(select)).fetch_all(&mut self.connection);
        tenants.await.unwrap()
    }
}

async fn connect(url: &str) -> Result<Database, Error> {
    Database::connect(url, 2, Arc::new(|_, _, _| {})).await
}

async fn run(connection: &mut PgConnection, statements: &str) {
    let statements = format!("set search_path = public; {statements}");
    let run = sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection);
    run.await.unwrap();
}

#[tokio::test]
async fn every_table_with_a_tenant_is_guarded_also_those_that_are_made_later() {
    let mut world = World::new().await;
    assert_eq!(world.unguarded().await, [""; 0]);
    let made = world.election.make_windows(&world.term, 24, 200).await;
    assert!(made.unwrap() > 0);
    assert_eq!(world.unguarded().await, [""; 0]);
    world.execute("create table forgotten (tenant int4)").await;
    assert_eq!(world.unguarded().await, ["forgotten"]);
}

#[tokio::test]
async fn who_reads_for_a_tenant_sees_its_rows_alone_by_any_table_and_leaf() {
    let mut world = World::new().await;
    world.fill().await;
    let tables = world.tables().await;
    // Even if somebody lets it read more than it needs.
    world
        .execute("grant select on all tables in schema public to watchwork_reader")
        .await;
    world.execute("set role watchwork_reader").await;
    for table in &tables {
        assert_eq!(world.seen(table).await, [0; 0], "{table} without a tenant");
        world
            .execute("begin; set local watchwork.tenant = '2'")
            .await;
        assert_eq!(world.seen(table).await, [2], "{table}");
        world.execute("rollback").await;
        assert_eq!(world.seen(table).await, [0; 0], "{table} after it");
    }
}

#[tokio::test]
async fn the_reader_has_no_rights_but_to_read_what_tenants_ask_for() {
    let mut world = World::new().await;
    world.fill().await;
    world
        .execute("set role watchwork_reader; set watchwork.tenant = '1'")
        .await;
    for forbidden in [
        "select * from api_key",
        "select * from installation",
        "select * from chain",
        "select * from idempotency",
        "insert into kept_due select * from kept_due",
        "delete from kept_execution",
        "select nextval('ext_seq')",
        "alter table kept_due disable row level security",
    ] {
        let tried = sqlx::query(forbidden).execute(&mut world.connection).await;
        let refused = tried.expect_err(forbidden);
        let code = refused.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{forbidden}: {refused}");
    }
}

#[tokio::test]
async fn an_execution_is_there_for_its_tenant_and_for_nobody_else() {
    let mut world = World::new().await;
    world.fill().await;
    assert_each_reads_its_own(&world).await;
}

async fn assert_each_reads_its_own(world: &World) {
    let place = |seq| ExecutionPlace {
        lane: LaneId(0),
        seq,
        home: world.term.now().hour(),
    };
    for (tenant, seq, there) in [(1, 1, true), (2, 2, true), (2, 1, false), (1, 2, false)] {
        let found = (world.database)
            .execution(&world.windows, tenant, place(seq))
            .await
            .unwrap();
        assert_eq!(found.is_some(), there, "tenant {tenant}, {seq}");
        assert!(found.is_none_or(|found| found.attempts.len() == 1));
        let saved = world
            .database
            .last_checkpoint(&world.windows, tenant, place(seq));
        assert_eq!(
            saved.await.unwrap().is_some(),
            there,
            "tenant {tenant}, {seq}"
        );
    }
}

/// A login that owns the database, and no superuser.
struct Owner {
    name: String,
    url: String,
}

impl Owner {
    async fn of(fresh: &FreshDatabase, rights: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(fresh.url()).await.unwrap();
        let make = format!(
            "create role {name} login password 'secret' {rights};
             do $$ begin
                 execute format('alter database %I owner to {name}', current_database());
             end $$"
        );
        run(&mut connection, &make).await;
        let (_, address) = fresh.url().rsplit_once('@').unwrap();
        let url = format!("postgres://{name}:secret@{address}");
        Self { name, url }
    }

    async fn go(self, connection: &mut PgConnection) {
        let name = self.name;
        let give_back = format!("reassign owned by {name} to current_user; drop owned by {name}");
        run(connection, &give_back).await;
        run(connection, &format!("drop role {name}")).await;
    }
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_writes_and_reads_everything() {
    // The role is there, whoever comes first.
    let _other = World::new().await;
    let fresh = fresh_database().await;
    let owner = Owner::of(&fresh, "").await;
    let mut superuser = PgConnection::connect(fresh.url()).await.unwrap();
    let grant = format!("grant watchwork_reader to {}", owner.name);
    run(&mut superuser, &grant).await;
    let mut world = World::of(fresh, &owner.url).await;
    world.connection = PgConnection::connect(&owner.url).await.unwrap();
    world.execute("").await;
    world.fill().await;
    for table in world.tables().await {
        assert_eq!(world.seen(&table).await, [1, 2], "{table}");
    }
    assert_eq!(world.unguarded().await, [""; 0]);
    assert_each_reads_its_own(&world).await;
    let World { fresh, .. } = world;
    owner.go(&mut superuser).await;
    drop(fresh);
}

#[tokio::test]
async fn who_may_not_act_as_the_reader_is_told_what_to_do() {
    let _other = World::new().await;
    let fresh = fresh_database().await;
    let owner = Owner::of(&fresh, "").await;
    let refused = connect(&owner.url).await.err().unwrap().to_string();
    let advice = format!("grant watchwork_reader to {}", owner.name);
    assert!(refused.contains(&advice), "{refused}");
    let mut superuser = PgConnection::connect(fresh.url()).await.unwrap();
    run(&mut superuser, &advice).await;
    let installed = connect(&owner.url).await.unwrap();
    drop(installed);
    let revoke = format!("revoke watchwork_reader from {}", owner.name);
    run(&mut superuser, &revoke).await;
    let refused = connect(&owner.url).await.err().unwrap().to_string();
    assert!(refused.contains("let a superuser grant it"), "{refused}");
    owner.go(&mut superuser).await;
}
