//! Windows turn over under load: what is over goes, what is open stays, and nobody waits. Hours pass because
//! the database's clock is put forward, which costs every lease and is survived as well.

mod clock;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use cluster::{ExtraEnv, Service};
use e2e::{HandedIn, Rig, hand_in, submission};
use proto::v1::{ExecutionState, Submission};
use serde_json::json;
use sqlx::{Connection, PgConnection, Row as _};
use tokio::time::sleep;

use clock::Clock;

const HOUR: Duration = Duration::from_secs(3_600);
/// How far the clock is put forward at a time: several windows, all of which are made already.
const STEP: u32 = 4;
/// What is due beyond all windows, which reach 25 hours ahead at least.
const FAR: Duration = Duration::from_secs(30 * 3_600);
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_outlives_its_windows_and_what_is_over_goes_with_them() -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("watchwork-clock-")
        .tempdir()?;
    open_to_all(dir.path())?;
    let (mut clock, env) = Clock::build(dir.path())?;
    let rig = start(env).await?;
    let door = dir.path().join("door");
    let open = hand_in_one(&rig, waits_for(&door)).await?;
    let far = hand_in_one(&rig, due_in(FAR)?).await?;
    let old = hand_in_one(&rig, submission("noop", &json!({}))).await?;
    has_state(&rig, &open, ExecutionState::Running).await?;
    has_state(&rig, &old, ExecutionState::Succeeded).await?;

    let load = Arc::new(AtomicBool::new(true));
    let caller = tokio::spawn(keep_handing_in(rig.client.clone(), Arc::clone(&load)));
    turn_over_beside_a_reader(&rig, &mut clock).await?;
    for _ in 0..6 {
        clock.put_forward(HOUR * STEP)?;
        until(async || lanes_are_owned(&rig).await).await?;
    }
    has_state(&rig, &far, ExecutionState::Succeeded).await?;
    has_state(&rig, &open, ExecutionState::Running).await?;
    std::fs::write(&door, "")?;
    has_state(&rig, &open, ExecutionState::Succeeded).await?;
    let gone = rig.client.get(&old.id).await;
    ensure!(gone.is_err(), "what was over stays: {gone:?}");

    load.store(false, Ordering::Release);
    let (count, longest) = caller.await??;
    println!("{count} handed in meanwhile, the slowest took {longest:?}");
    until(async || nothing_is_open(&rig).await)
        .await
        .context("all is done")?;
    rig.stop().await
}

/// Short windows that are kept for a short time, and a database with a clock of its own.
async fn start(env: Vec<(String, String)>) -> Result<Rig> {
    Rig::start(|options| {
        options.database_url = None;
        options.postgres.env = env;
        let scheduler = |name: &str, value: &str| ExtraEnv {
            service: Service::Scheduler,
            name: name.to_owned(),
            value: value.to_owned(),
        };
        options.env = vec![scheduler("WINDOW_HOURS", "1"), scheduler("RETENTION", "1h")];
    })
    .await
}

/// Windows go while somebody reads on in what they held when he began; their leaves go once he is done.
async fn turn_over_beside_a_reader(rig: &Rig, clock: &mut Clock) -> Result<()> {
    let first_hour = database_hour(rig).await?;
    let mut reader = PgConnection::connect(rig.cluster.database_url()).await?;
    let mut reader = reader.begin().await?;
    for step in [
        "set transaction isolation level repeatable read",
        "select count(*) from execution",
    ] {
        sqlx::query(step).execute(&mut *reader).await?;
    }
    for step in 1..=2 {
        clock.put_forward(HOUR * STEP)?;
        until(async || lanes_are_owned(rig).await).await?;
        let now = first_hour + i32::try_from(STEP)? * step;
        until(async || are_out_of_use(rig, now).await)
            .await
            .context("windows go")?;
    }
    let leaf = format!("select count(*) from execution_{first_hour}");
    let read = sqlx::query(sqlx::AssertSqlSafe(leaf)).execute(&mut *reader);
    read.await.context("the reader reads on")?;
    reader.commit().await?;
    until(async || is_removed(rig, first_hour).await)
        .await
        .context("leaves go")
}

fn open_to_all(dir: &std::path::Path) -> Result<()> {
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    Ok(std::fs::set_permissions(dir, all)?)
}

/// An execution that ends when a file is there.
fn waits_for(file: &std::path::Path) -> Submission {
    let wait = format!("while [ ! -e {} ]; do sleep 0.1; done", file.display());
    submission("command", &json!({"argv": ["sh", "-c", wait]}))
}

fn due_in(wait: Duration) -> Result<Submission> {
    let due = prost_types::Timestamp::from(SystemTime::now() + wait);
    Ok(Submission {
        due_at: Some(due),
        ..submission("noop", &json!({}))
    })
}

async fn hand_in_one(rig: &Rig, one: Submission) -> Result<HandedIn> {
    let handed_in = hand_in(&rig.client, vec![one]).await?.pop();
    handed_in.context("one verdict")
}

/// Hands in one execution after the other; gives how many, and how long the slowest took.
async fn keep_handing_in(
    client: watchwork::client::Client,
    load: Arc<AtomicBool>,
) -> Result<(usize, Duration)> {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while load.load(Ordering::Acquire) {
        let begin = Instant::now();
        count += hand_in(&client, vec![submission("noop", &json!({}))])
            .await?
            .len();
        longest = longest.max(begin.elapsed());
        sleep(POLL).await;
    }
    Ok((count, longest))
}

async fn has_state(rig: &Rig, one: &HandedIn, state: ExecutionState) -> Result<()> {
    until(async || Ok(rig.client.get(&one.id).await?.state() == state))
        .await
        .with_context(|| format!("{} is {}", one.id, state.as_str_name()))
}

async fn database_hour(rig: &Rig) -> Result<i32> {
    let hour = sqlx::query("select (extract(epoch from clock_timestamp()) / 3600)::int4 as hour");
    let hour = hour.fetch_one(rig.ledger.pool()).await?;
    Ok(hour.try_get(0)?)
}

async fn count(rig: &Rig, sql: &'static str, bound: i32) -> Result<i64> {
    let count = sqlx::query_scalar(sql).bind(bound);
    Ok(count.fetch_one(rig.ledger.pool()).await?)
}

async fn lanes_are_owned(rig: &Rig) -> Result<bool> {
    const FREE: &str =
        "select count(*) from lane_lease where expires_at < clock_timestamp() and $1 = 0";
    Ok(count(rig, FREE, 0).await? == 0)
}

/// Windows that were over two hours before `now` are out of use, but those of keys.
async fn are_out_of_use(rig: &Rig, now: i32) -> Result<bool> {
    const LEFT: &str = r#"select count(*) from "window" where state < 4 and to_hour <= $1 - 2
        and table_name <> 'idempotency'"#;
    Ok(count(rig, LEFT, now).await? == 0)
}

async fn is_removed(rig: &Rig, hour: i32) -> Result<bool> {
    const LEFT: &str = r#"select count(*) from "window" where from_hour <= $1
        and table_name <> 'idempotency'"#;
    Ok(count(rig, LEFT, hour).await? == 0)
}

async fn nothing_is_open(rig: &Rig) -> Result<bool> {
    const OPEN: &str = "select count(*) from (
            select distinct on (lane) submitted, finished from chain order by lane, n desc) last
        where submitted <> finished and $1 = 0";
    Ok(count(rig, OPEN, 0).await? == 0)
}

async fn until(mut good: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !good().await.unwrap_or(false) {
        ensure!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        sleep(POLL).await;
    }
    Ok(())
}
