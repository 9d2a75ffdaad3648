//! A worker that is told to leave, and one that is killed. `WORKER_LEASE=30` gives workers the lease of production.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use cluster::Service;
use e2e::{Rig, retry_policy, submission};
use proto::v1::{Attempt, AttemptResult, ExecutionState, WorkerState};
use serde_json::json;
use tokio::time::{sleep, timeout};

const TASKS: usize = 12;
/// How soon what was handed back runs again.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(30);
/// How much longer than a worker's lease what it ran may wait once it is killed.
const LEASE_AND: Duration = Duration::from_secs(5);

fn worker_lease() -> Duration {
    let seconds = std::env::var("WORKER_LEASE").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

async fn until_running(rig: &Rig, count: usize) -> Result<()> {
    while rig
        .under_way()
        .await?
        .iter()
        .map(|it| it.running)
        .sum::<f64>()
        < count as f64
    {
        sleep(LOOK).await;
    }
    Ok(())
}

fn dispatched(attempt: &Attempt) -> Result<SystemTime> {
    Ok(attempt
        .dispatched_at
        .context("never dispatched")?
        .try_into()?)
}

fn recorded(attempt: &Attempt) -> Result<SystemTime> {
    Ok(attempt.recorded_at.context("never recorded")?.try_into()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drained_worker_cannot_finish_runs_elsewhere_at_once_and_spends_nothing()
-> Result<()> {
    let rig = Rig::start(|options| options.worker_slots = 16).await?;
    let workers = rig.client.workers().await?;
    let names: Vec<&str> = workers.iter().map(|it| it.worker_id.as_str()).collect();
    ensure!(names == ["worker-1", "worker-2"], "{workers:?}");
    let mut sleeps = submission("sleep", &json!({"ms": 4_000}));
    sleeps.retry_policy = Some(retry_policy(1, Duration::ZERO));
    let ids = rig.client.submit_batch(vec![sleeps; TASKS]).await?;
    let ids: Vec<String> = ids.into_iter().flatten().collect();
    timeout(DEADLINE, until_running(&rig, TASKS)).await??;

    let told = SystemTime::now();
    rig.client
        .drain_worker("worker-1", Some(Duration::ZERO))
        .await?;
    let left = async {
        let is_first = |it: &proto::v1::Worker| it.worker_id == "worker-1";
        while rig.client.workers().await?.iter().any(is_first) {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    timeout(DEADLINE, left).await??;
    ensure!(
        told.elapsed()? < AGAIN_WITHIN,
        "it left after {:?}",
        told.elapsed()?
    );

    let mut returned = 0;
    for id in &ids {
        let execution = rig.client.wait_for(id).await?;
        ensure!(
            execution.state() == ExecutionState::Succeeded,
            "{execution:?}"
        );
        for (attempt, next) in execution.attempts.iter().zip(&execution.attempts[1..]) {
            ensure!(attempt.result() == AttemptResult::Returned, "{execution:?}");
            ensure!(recorded(attempt)? < told + AGAIN_WITHIN, "{execution:?}");
            ensure!(dispatched(next)? < told + AGAIN_WITHIN, "{execution:?}");
            ensure!(
                (next.number, next.worker_id.as_str()) == (1, "worker-2"),
                "{execution:?}"
            );
            returned += 1;
        }
    }
    ensure!(returned > 0, "worker-1 ran nothing");
    let members = rig.cluster.members();
    let first = members
        .iter()
        .find(|member| member.instance() == "worker-1");
    ensure!(first.is_some_and(|it| it.service() == Service::Worker && !it.alive()));
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drained_worker_can_finish_within_its_grace_it_finishes() -> Result<()> {
    let rig = Rig::start(|options| options.workers = 1).await?;
    let sleeps = submission("sleep", &json!({"ms": 1_500}));
    let id = rig.client.submit(sleeps).await?;
    timeout(DEADLINE, until_running(&rig, 1)).await??;
    rig.client.drain_worker("worker-1", None).await?;
    let waits = rig.client.submit(submission("noop", &json!({}))).await?;
    let draining = async {
        loop {
            let workers = rig.client.workers().await?;
            if workers.iter().all(|it| it.state() == WorkerState::Draining) {
                return anyhow::Ok(());
            }
            sleep(LOOK).await;
        }
    };
    timeout(DEADLINE, draining).await??;
    let done = rig.client.wait_for(&id).await?;
    ensure!(
        done.state() == ExecutionState::Succeeded && done.attempts.len() == 1,
        "{done:?}"
    );
    let waiting = rig.client.get(&waits).await?;
    ensure!(
        waiting.state() == ExecutionState::Queued,
        "it takes nothing new: {waiting:?}"
    );
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_ran_runs_elsewhere_after_its_lease() -> Result<()> {
    let lease = worker_lease();
    let rig = Rig::start(|options| {
        options.worker_slots = 16;
        options.worker_lease = lease;
    })
    .await?;
    let sleeps = submission("sleep", &json!({"ms": 2_000}));
    let ids = rig.client.submit_batch(vec![sleeps; TASKS]).await?;
    timeout(DEADLINE, until_running(&rig, TASKS)).await??;
    let killed = SystemTime::now();
    rig.cluster.kill("worker-1")?;
    let mut waited = Vec::new();
    for id in ids.into_iter().flatten() {
        let execution = rig.client.wait_for(&id).await?;
        ensure!(
            execution.state() == ExecutionState::Succeeded,
            "{execution:?}"
        );
        for (attempt, next) in execution.attempts.iter().zip(&execution.attempts[1..]) {
            ensure!(attempt.result() == AttemptResult::Lost, "{execution:?}");
            ensure!(next.number == attempt.number, "{execution:?}");
            waited.push(dispatched(next)?.duration_since(killed)?);
        }
    }
    waited.sort_unstable();
    println!("run again after {waited:.1?}");
    ensure!(!waited.is_empty(), "worker-1 ran nothing");
    ensure!(
        waited.iter().all(|it| *it < lease + LEASE_AND),
        "{waited:?}"
    );
    rig.stop().await
}
