//! What handlers save: the next attempt goes on from there, whatever became of the one before and of its owner; who
//! has lost the right saves nothing more.

mod lanes;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::Service;
use e2e::{Rig, retry_policy, submission, until};
use proto::v1::{AttemptResult, Execution, ExecutionState, Submission};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn counting(payload: &Value) -> Submission {
    Submission {
        retry_policy: Some(retry_policy(2, Duration::from_millis(200))),
        ..submission("count", payload)
    }
}

/// Where the attempt began that succeeded.
fn went_on_from(done: &Execution) -> Result<u64> {
    ensure!(done.state() == ExecutionState::Succeeded, "{done:?}");
    let output: Value = serde_json::from_slice(&done.output)?;
    output["from"].as_u64().context("where it began")
}

/// How far the last checkpoint is that was acknowledged; 0 if there is none.
fn saved(execution: &Execution) -> u64 {
    let checkpoint = execution.checkpoint.as_ref();
    let progress = checkpoint.and_then(|checkpoint| checkpoint.progress.as_ref());
    progress.map_or(0, |progress| progress.done)
}

/// Waits until it has saved something; gives how it stands then, and who runs it.
async fn once_saved(rig: &Rig, id: &str, at_least: u64) -> Result<(Execution, String)> {
    until("a checkpoint", SOON, async || {
        Ok(saved(&rig.client.get(id).await?) >= at_least)
    })
    .await?;
    let execution = rig.client.get(id).await?;
    let runs = execution.attempts.last().context("an attempt")?;
    let worker = runs.worker_id.clone();
    Ok((execution, worker))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_goes_on_from_the_last_checkpoint_when_its_worker_is_killed() -> Result<()>
{
    let rig = Rig::start(|_| {}).await?;
    let slow = counting(&json!({"n": 60, "step_ms": 100, "every": 5}));
    let id = rig.client.hand_in(slow).await?.execution_id;
    let (execution, worker) = once_saved(&rig, &id, 10).await?;
    rig.cluster.kill(&worker)?;
    let done = rig.client.wait_for(&id).await?;
    let from = went_on_from(&done)?;
    ensure!(
        from >= saved(&execution) && from < 60 && from % 5 == 0,
        "{from}: {done:?}"
    );
    ensure!(done.attempts.len() == 2, "{done:?}");
    let [lost, last] = &done.attempts[..] else {
        anyhow::bail!("{done:?}");
    };
    ensure!(lost.result() == AttemptResult::Lost, "{done:?}");
    let items = last.items.context("items")?;
    ensure!(
        (items.success, items.failed, items.skipped) == (60 - from, 0, 0),
        "{done:?}"
    );
    let progress = done.progress.context("progress")?;
    ensure!((progress.done, progress.total) == (60, 60), "{progress:?}");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_its_schedulers_and_a_retry_by_hand_goes_on_from_it_too() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    // Its back-off is long enough for every lane to change hands before the next attempt.
    let policy = retry_policy(2, Duration::from_secs(8));
    let waits = Submission {
        retry_policy: Some(policy),
        ..counting(&json!({"n": 20, "every": 4, "fail_at": 8}))
    };
    let once = Submission {
        retry_policy: Some(retry_policy(1, Duration::ZERO)),
        ..waits.clone()
    };
    let dead = rig.client.hand_in(once).await?.execution_id;
    let dead = rig.client.wait_for(&dead).await?;
    ensure!(dead.state() == ExecutionState::DeadLettered, "{dead:?}");
    ensure!(saved(&dead) == 8, "{dead:?}");
    let waits = rig.client.hand_in(waits).await?.execution_id;
    until("its first attempt's end", SOON, async || {
        Ok(rig.client.get(&waits).await?.state() == ExecutionState::Retrying)
    })
    .await?;
    for member in rig.cluster.members() {
        if member.service() == Service::Scheduler {
            rig.cluster.kill(member.instance())?;
            rig.cluster.restart(member.instance()).await?;
        }
    }
    ensure!(went_on_from(&rig.client.wait_for(&waits).await?)? == 8);
    rig.client.retry(&dead.execution_id).await?;
    let again = rig.client.wait_for(&dead.execution_id).await?;
    ensure!(went_on_from(&again)? == 8, "{again:?}");
    let items = again.attempts[1].items.context("items")?;
    ensure!(items.success == 12, "it counted from 8 to 20: {again:?}");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_slept_through_the_lease_saves_nothing_more() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let slow = counting(&json!({"n": 80, "step_ms": 100, "every": 1}));
    let id = rig.client.hand_in(slow).await?.execution_id;
    let (_, sleeper) = once_saved(&rig, &id, 3).await?;
    let sleeper = rig.cluster.member(&sleeper)?;
    sleeper.pause()?;
    until("another attempt that saves", SOON, async || {
        let execution = rig.client.get(&id).await?;
        let now = execution.attempts.last().map(|attempt| attempt.fence);
        let saved_by = execution.checkpoint.map(|checkpoint| checkpoint.fence);
        Ok(execution.attempts.len() == 2 && now == saved_by)
    })
    .await?;
    sleeper.resume()?;
    let done = rig.client.wait_for(&id).await?;
    ensure!(went_on_from(&done)? >= 3, "{done:?}");
    // Each attempt's checkpoints were all recorded before the next one's claim.
    let late: i64 = sqlx::query_scalar(
        "select count(*) from checkpoint late join checkpoint next
             on next.lane = late.lane and next.seq = late.seq and next.fence > late.fence
         where late.at >= next.at",
    )
    .fetch_one(rig.ledger.pool())
    .await?;
    ensure!(late == 0, "{late} of a holder that had lost its right");
    let counted: i64 = sqlx::query_scalar("select count(*) from checkpoint")
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(
        counted >= 77,
        "each number that was counted last was saved: {counted}"
    );
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_seen_while_it_runs_and_items_are_counted() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let slow = submission("count", &json!({"n": 40, "step_ms": 100}));
    let id = rig.client.hand_in(slow).await?.execution_id;
    until("progress", SOON, async || {
        let execution = rig.client.get(&id).await?;
        let progress = execution.progress.as_ref();
        let counting =
            progress.is_some_and(|p| p.done > 0 && p.total == 40 && p.note == "counting");
        Ok(counting && execution.state() == ExecutionState::Running)
    })
    .await?;
    let done = rig.client.wait_for(&id).await?;
    ensure!(
        went_on_from(&done)? == 0 && done.checkpoint.is_none(),
        "{done:?}"
    );
    let counted = rig.total("execution_items_processed_total").await?;
    ensure!(counted == 40.0, "{counted} items");
    rig.stop().await
}
