//! Work that is handed in inside an application's own transactions.

mod lanes;

use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use cluster::{ExtraEnv, Service};
use e2e::{Rig, python_with, say_skipped, submission};
use proto::v1::{Execution, ExecutionState, Submission};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tonic::Code;

const PSYCOPG: &str = "psycopg[binary]==3.3.9\n";

/// A cluster, and an application's table in its database.
async fn rig() -> Result<Rig> {
    let rig = Rig::start(|options| {
        options.env.push(ExtraEnv {
            service: Service::Scheduler,
            name: "DUE_HORIZON".to_owned(),
            value: "2s".to_owned(),
        });
    })
    .await?;
    sqlx::raw_sql(
        "create table public.orders
             (id bigint generated always as identity, customer text, confirmation uuid)",
    )
    .execute(rig.ledger.pool())
    .await?;
    Ok(rig)
}

/// Places an order and submits its confirmation; gives the execution's id.
async fn place_order(connection: &mut PgConnection, arguments: &str) -> Result<String> {
    let sql = format!(
        "insert into orders (customer, confirmation)
         select 'ada', execution_id from watchwork.submit('demo', 'noop', {arguments})
         returning confirmation::text"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await?)
}

/// The execution, once it has succeeded.
async fn succeeded(rig: &Rig, id: &str) -> Result<Execution> {
    let end = tokio::time::timeout(Duration::from_secs(20), rig.client.wait_for(id)).await;
    let execution = end.with_context(|| format!("{id} doesn't end"))??;
    ensure!(
        execution.state() == ExecutionState::Succeeded,
        "{execution:?}"
    );
    Ok(execution)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_submits_runs_once_it_has_committed_and_never_if_it_has_not()
-> Result<()> {
    let rig = rig().await?;
    let mut connection = PgConnection::connect(rig.cluster.database_url()).await?;
    let mut other = PgConnection::connect(rig.cluster.database_url()).await?;
    let (mut kept, mut given_up) = (connection.begin().await?, other.begin().await?);
    let wanted = place_order(&mut kept, "payload => '{\"n\": 1}'").await?;
    let unwanted = place_order(&mut given_up, "payload => '{\"n\": 2}'").await?;
    for id in [&wanted, &unwanted] {
        let found = rig.client.get(id).await.expect_err("nothing is committed");
        ensure!(found.code() == Code::NotFound, "{found:?}");
    }
    given_up.rollback().await?;
    kept.commit().await?;
    let committed = Instant::now();
    succeeded(&rig, &wanted).await?;
    ensure!(
        committed.elapsed() < Duration::from_secs(5),
        "{:?}",
        committed.elapsed()
    );

    // What came to the same lanes later is over; so the other one has had its time.
    let mut later = Vec::new();
    for _ in 0..rig.ledger.lanes().await? {
        later.push(place_order(&mut connection, "queue => 'default'").await?);
    }
    for id in &later {
        succeeded(&rig, id).await?;
    }
    let found = rig
        .client
        .get(&unwanted)
        .await
        .expect_err("it was rolled back");
    ensure!(found.code() == Code::NotFound, "{found:?}");
    let orders: Vec<String> =
        sqlx::query_scalar("select confirmation::text from orders order by id")
            .fetch_all(rig.ledger.pool())
            .await?;
    ensure!(orders[0] == wanted && orders[1..] == later, "{orders:?}");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_execution_whether_it_comes_in_sql_or_over_the_api() -> Result<()> {
    const PAYLOAD: &str = r#"{"n":1}"#;
    let rig = rig().await?;
    let keyed = |key: &str| Submission {
        idempotency_key: key.to_owned(),
        ..submission("noop", &json!({"n": 1}))
    };
    let content_type = keyed("").content_type;
    let arguments = |key: &str| {
        format!(
            "payload => '{PAYLOAD}', content_type => '{content_type}', idempotency_key => '{key}'"
        )
    };
    let mut connection = PgConnection::connect(rig.cluster.database_url()).await?;

    let by_sql = place_order(&mut connection, &arguments("sql-first")).await?;
    let answer = rig.client.hand_in(keyed("sql-first")).await?;
    ensure!(
        answer.duplicate && answer.execution_id == by_sql,
        "{answer:?}, not {by_sql}"
    );
    let answer = rig.client.hand_in(keyed("api-first")).await?;
    let by_sql = place_order(&mut connection, &arguments("api-first")).await?;
    ensure!(
        !answer.duplicate && answer.execution_id == by_sql,
        "{answer:?}, not {by_sql}"
    );

    let other = Submission {
        idempotency_key: "sql-first".to_owned(),
        ..submission("noop", &json!({"n": 2}))
    };
    let conflict = rig
        .client
        .hand_in(other)
        .await
        .expect_err("another body under the same key");
    ensure!(conflict.code() == Code::AlreadyExists, "{conflict:?}");

    // Both at once, again and again.
    let mut ids = Vec::new();
    for round in 0..20 {
        let key = format!("race-{round}");
        let arguments = arguments(&key);
        let (by_api, by_sql) = tokio::join!(
            rig.client.hand_in(keyed(&key)),
            place_order(&mut connection, &arguments)
        );
        let (by_api, by_sql) = (by_api?.execution_id, by_sql?);
        ensure!(by_api == by_sql, "{key}: {by_api} and {by_sql}");
        ids.push(by_sql);
    }
    for id in &ids {
        succeeded(&rig, id).await?;
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from execution")
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(stored == 22, "{stored} executions of 22 keys");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_later_waits_for_its_time_near_and_far() -> Result<()> {
    let rig = rig().await?;
    let mut connection = PgConnection::connect(rig.cluster.database_url()).await?;
    let mut ids = Vec::new();
    for wait in ["2 seconds", "5 seconds", "90 days"] {
        let arguments = format!("due_at => clock_timestamp() + interval '{wait}'");
        ids.push(place_order(&mut connection, &arguments).await?);
    }
    let beyond_windows = ids.pop().context("three")?;
    for id in &ids {
        let execution = succeeded(&rig, id).await?;
        let due: SystemTime = execution.due_at.context("due")?.try_into()?;
        let begun: SystemTime = execution.attempts[0]
            .dispatched_at
            .context("begun")?
            .try_into()?;
        ensure!(begun >= due, "begun {begun:?}, due {due:?}");
        ensure!(
            begun.duration_since(due)? < Duration::from_millis(1_500),
            "{begun:?} {due:?}"
        );
    }
    let execution = rig.client.get(&beyond_windows).await?;
    ensure!(
        execution.state() == ExecutionState::Scheduled,
        "{execution:?}"
    );
    ensure!(rig.client.cancel(&beyond_windows).await? == ExecutionState::Cancelled);
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_manual_work() -> Result<()> {
    let rig = rig().await?;
    let dir = tempfile::tempdir()?;
    // Without what only sqlx knows.
    let url = rig.cluster.database_url();
    let (url, _) = url.split_once('?').unwrap_or((url, ""));

    let script = dir.path().join("order.sql");
    fs::write(&script, example("sql")?)?;
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", "--file"])
        .arg(&script)
        .arg(url);
    let mut tried = i64::from(try_example("psql", psql)?);
    let program = dir.path().join("order.py");
    fs::write(&program, example("python")?)?;
    match python_with("psycopg", PSYCOPG) {
        Ok(python) => {
            let mut order = Command::new(python);
            order.arg(&program).env("DATABASE_URL", url);
            tried += i64::from(try_example("Python", order)?);
        }
        Err(why) => say_skipped("the example for Python", &why)?,
    }

    let orders: i64 = sqlx::query_scalar("select count(*) from orders")
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(orders == tried, "{orders} orders of {tried} examples");
    let executions: i64 = sqlx::query_scalar("select count(*) from execution")
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(
        executions == tried,
        "{executions} executions of {tried} examples"
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    while rig.ledger.unended_and_ended_twice().await? != (0, 0) {
        ensure!(
            Instant::now() < deadline,
            "what the examples submitted doesn't end"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

/// The manual's example in a language, word for word.
fn example(language: &str) -> Result<String> {
    const MANUAL: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/submitting-in-a-transaction.md"
    );
    let manual = fs::read_to_string(MANUAL)?;
    let (_, rest) = manual
        .split_once(&format!("```{language}\n"))
        .with_context(|| format!("the manual has no example in {language}"))?;
    let (example, _) = rest.split_once("```").context("the example has no end")?;
    Ok(example.to_owned())
}

/// Runs an example; false if its program is not installed here.
fn try_example(name: &str, mut command: Command) -> Result<bool> {
    match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            say_skipped(&format!("the example for {name}"), &error.into())?;
            Ok(false)
        }
        ended => {
            let ended = ended?;
            let errors = String::from_utf8_lossy(&ended.stderr);
            ensure!(
                ended.status.success(),
                "{name} ended with {}: {errors}",
                ended.status
            );
            Ok(true)
        }
    }
}
