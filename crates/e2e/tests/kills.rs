//! `kill -9`, or a long pause, in the middle of 2 000 executions: everything that was acknowledged
//! ends, once.

mod lanes;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::Options;
use e2e::{HandedIn, Rig, Tracker, UnderWay, hand_in, hand_in_each, retry_policy, submission};
use futures::{StreamExt, TryStreamExt, stream};
use proto::v1::{AttemptResult, ExecutionState, Submission};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::sleep;

const EXECUTIONS: usize = 2_000;
/// The rest is handed in while somebody dies.
const BEFORE_THE_KILL: usize = 1_600;
const BATCH: usize = 200;
const AT_LEAST_RUNNING: f64 = 100.0;
const AT_LEAST_WAITING: f64 = 500.0;
const ALL_ENDED_WITHIN: Duration = Duration::from_secs(40);
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// Two clusters at a time would only slow each other down.
static ONE_AFTER_THE_OTHER: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_no_execution() -> Result<()> {
    under_load(async |rig: &Rig, _: &[UnderWay]| rig.cluster.kill("worker-1")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_scheduler_that_owns_lanes_costs_no_execution() -> Result<()> {
    under_load(async |rig: &Rig, under_way: &[UnderWay]| {
        let (busiest, _) = busiest(rig, under_way).await?;
        rig.cluster.kill(&busiest)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_slept_through_its_leases_changes_nothing_when_it_wakes_up() -> Result<()>
{
    under_load(async |rig: &Rig, under_way: &[UnderWay]| {
        let (busiest, lanes) = busiest(rig, under_way).await?;
        let sleeper = rig.cluster.member(&busiest)?;
        sleeper.pause()?;
        until(async || Ok(rig.ledger.owned_by_others(&lanes, &busiest).await? == lanes.len()))
            .await?;
        sleeper.resume()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_through_its_lease_ends_nothing_twice_when_it_wakes_up() -> Result<()> {
    under_load(async |rig: &Rig, _: &[UnderWay]| {
        let sleeper = rig.cluster.member("worker-1")?;
        sleeper.pause()?;
        until(async || {
            let lost = "select exists (select from outcome where result = $1)";
            let lost = sqlx::query_scalar(lost).bind(AttemptResult::Lost as i16);
            Ok(lost.fetch_one(rig.ledger.pool()).await?)
        })
        .await?;
        sleeper.resume()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_costs_no_execution() -> Result<()> {
    under_load(async |rig: &Rig, _: &[UnderWay]| {
        rig.cluster.kill("api-gateway-1")?;
        rig.cluster.restart("api-gateway-1").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_restarted_database_costs_no_execution() -> Result<()> {
    let kill = async |rig: &Rig, _: &[UnderWay]| {
        let postgres = rig.cluster.postgres().context("a server of its own")?;
        postgres.kill()?;
        postgres.restart()
    };
    let private = |options: &mut Options| options.database_url = None;
    under_load_with(private, kill).await
}

/// Hands everything in, kills in the middle, and checks that all came to one end.
async fn under_load(kill: impl AsyncFnOnce(&Rig, &[UnderWay]) -> Result<()>) -> Result<()> {
    under_load_with(|_| {}, kill).await
}

/// The same on a cluster with other options.
async fn under_load_with(
    change: impl FnOnce(&mut Options),
    kill: impl AsyncFnOnce(&Rig, &[UnderWay]) -> Result<()>,
) -> Result<()> {
    let _alone = ONE_AFTER_THE_OTHER.lock().await;
    let rig = Rig::start(|options| {
        options.worker_slots = 72;
        change(options);
    })
    .await?;
    let tracker = Tracker::new(rig.client.clone());
    let work = mixed_work();
    let mut handed_in = hand_in_batches(&rig, &work[..BEFORE_THE_KILL]).await?;
    tracker.follow(&handed_in);

    let under_way = wait_for_load(&rig).await?;
    let rest = &work[BEFORE_THE_KILL..];
    let (killed, rest) = tokio::join!(
        kill(&rig, &under_way),
        hand_in_each(&rig.client, rest.to_vec())
    );
    killed?;
    let rest = rest?;
    tracker.follow(&rest);
    handed_in.extend(rest);

    let counts = tracker.until_all_ended(ALL_ENDED_WITHIN).await?;
    ensure!(counts.ended == EXECUTIONS, "{counts:?}");
    each_ended_once(&rig, &handed_in).await?;
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

/// The scheduler in whose lanes most is running, and its lanes.
async fn busiest(rig: &Rig, under_way: &[UnderWay]) -> Result<(String, Vec<i16>)> {
    let busiest = under_way
        .iter()
        .max_by(|one, other| one.running.total_cmp(&other.running));
    let busiest = busiest.context("there are schedulers")?;
    let lanes = rig.ledger.lanes_of(&busiest.scheduler).await?;
    ensure!(
        !lanes.is_empty() && busiest.waiting > 0.0,
        "{busiest:?} owns {lanes:?}"
    );
    Ok((busiest.scheduler.clone(), lanes))
}

async fn until(mut good: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !good().await? {
        ensure!(begin.elapsed() < TAKEN_OVER_WITHIN, "nobody takes over");
        sleep(POLL).await;
    }
    Ok(())
}

/// Three of four sleep for 50 to 200 ms, one of eight does nothing, one of eight fails at first.
fn mixed_work() -> Vec<Submission> {
    let one = |number: usize| match number % 8 {
        0 => submission("noop", &json!({})),
        1 => Submission {
            retry_policy: Some(retry_policy(5, Duration::from_millis(300))),
            ..submission("fail", &json!({"times": 1}))
        },
        _ => submission("sleep", &json!({"ms": 50 + number * 37 % 151})),
    };
    (0..EXECUTIONS).map(one).collect()
}

async fn hand_in_batches(rig: &Rig, work: &[Submission]) -> Result<Vec<HandedIn>> {
    let batches = work
        .chunks(BATCH)
        .map(|batch| hand_in(&rig.client, batch.to_vec()));
    let handed_in = futures::future::try_join_all(batches).await?;
    Ok(handed_in.into_iter().flatten().collect())
}

/// Waits until enough runs and waits at the same moment.
async fn wait_for_load(rig: &Rig) -> Result<Vec<UnderWay>> {
    let begin = Instant::now();
    loop {
        let under_way = rig.under_way().await?;
        let running: f64 = under_way.iter().map(|one| one.running).sum();
        let waiting: f64 = under_way.iter().map(|one| one.waiting).sum();
        if running >= AT_LEAST_RUNNING && waiting >= AT_LEAST_WAITING {
            println!("at the kill {running} run and {waiting} wait");
            return Ok(under_way);
        }
        if begin.elapsed() > Duration::from_secs(10) {
            bail!("never enough under way at once: {under_way:?}");
        }
        sleep(POLL).await;
    }
}

/// By the API: a final state, and one attempt that made it. By the database: one final outcome, and
/// none missing or double among those that nobody acknowledged.
async fn each_ended_once(rig: &Rig, handed_in: &[HandedIn]) -> Result<()> {
    let ids: HashSet<&str> = handed_in.iter().map(|one| one.id.as_str()).collect();
    ensure!(ids.len() == EXECUTIONS, "{} different ids", ids.len());
    let checks = ids.iter().map(|id| ended_well(rig, id));
    stream::iter(checks)
        .buffer_unordered(32)
        .try_collect::<()>()
        .await?;
    let outcomes = rig.ledger.final_outcomes(ids.iter().copied()).await?;
    let wrong: Vec<_> = outcomes.iter().filter(|(_, count)| **count != 1).collect();
    ensure!(
        wrong.is_empty(),
        "final outcomes in the database: {wrong:?}"
    );
    let begin = Instant::now();
    loop {
        let (unended, twice) = rig.ledger.unended_and_ended_twice().await?;
        ensure!(twice == 0, "{twice} executions ended twice");
        if unended == 0 {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < ALL_ENDED_WITHIN,
            "{unended} executions never end"
        );
        sleep(POLL).await;
    }
}

async fn ended_well(rig: &Rig, id: &str) -> Result<()> {
    let execution = rig.client.get(id).await?;
    let successes = execution.attempts.iter();
    let successes = successes.filter(|attempt| attempt.result() == AttemptResult::Success);
    ensure!(
        execution.state() == ExecutionState::Succeeded && successes.count() == 1,
        "{id} is {}: {:?}",
        execution.state().as_str_name(),
        execution.attempts
    );
    Ok(())
}
