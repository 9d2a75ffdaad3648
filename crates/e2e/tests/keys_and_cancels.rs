//! Idempotency keys, executions for later, and cancellation, through the whole path.

mod lanes;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use cluster::{ExtraEnv, Service};
use e2e::{Rig, submission};
use futures::future::join_all;
use proto::v1::{AttemptResult, ExecutionState, Submission};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tonic::Code;
use watchwork::client::Client;

fn keyed(key: &str, payload: serde_json::Value) -> Submission {
    Submission {
        idempotency_key: key.to_owned(),
        ..submission("noop", &payload)
    }
}

fn in_time(wait: Duration) -> Submission {
    Submission {
        due_at: Some((SystemTime::now() + wait).into()),
        ..submission("noop", &json!({}))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_submissions_of_one_key_through_two_gateways_are_one_execution() -> Result<()> {
    let rig = Rig::start(|options| options.gateways = 2).await?;
    let gateways = rig.cluster.urls(Service::ApiGateway);
    ensure!(gateways.len() == 2, "{gateways:?}");
    let clients: Vec<Client> = gateways
        .iter()
        .map(|url| Client::new(url, rig.cluster.key()).map_err(anyhow::Error::msg))
        .collect::<Result<_>>()?;
    for round in 0..5 {
        let key = format!("order-{round}");
        let calls = (0..100).map(|i| clients[i % 2].hand_in(keyed(&key, json!({"n": 1}))));
        let answers = join_all(calls).await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let ids: HashSet<&str> = answers.iter().map(|a| a.execution_id.as_str()).collect();
        ensure!(ids.len() == 1, "{ids:?}");
        let new = answers.iter().filter(|answer| !answer.duplicate).count();
        ensure!(new == 1, "{new} were told that theirs is new");
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from execution")
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(stored == 5, "{stored} executions");

    let other = rig.client.hand_in(keyed("order-0", json!({"n": 2}))).await;
    let conflict = other.expect_err("another body under the same key");
    ensure!(conflict.code() == Code::AlreadyExists, "{conflict:?}");

    let batch = vec![
        keyed("order-0", json!({"n": 1})),
        keyed("fresh", json!({})),
        keyed("fresh", json!({})),
        keyed("fresh", json!({"n": 9})),
        submission("noop", &json!({})),
    ];
    let verdicts = rig.client.submit_batch(batch).await?;
    let ids: Vec<Option<&String>> = verdicts.iter().map(|v| v.as_ref().ok()).collect();
    ensure!(
        ids[0].is_some() && ids[1].is_some() && ids[1] == ids[2],
        "{verdicts:?}"
    );
    ensure!(ids[3].is_none() && ids[4].is_some(), "{verdicts:?}");
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_transaction_that_holds_a_key_delays_only_that_key() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let tenant: i32 = sqlx::query_scalar("select tenant from queue where name = 'default' limit 1")
        .fetch_one(rig.ledger.pool())
        .await?;
    let mut connection = PgConnection::connect(rig.cluster.database_url()).await?;
    let mut foreign = connection.begin().await?;
    let hold = "insert into idempotency
        select idempotency_window(now()), $1::uuid, 1, $2, '00000000-0000-0000-0000-000000000000'";
    sqlx::query(hold)
        .bind(hex::encode(domain::key_hash(tenant, "held")))
        .bind(tenant)
        .execute(&mut *foreign)
        .await?;
    let held = {
        let client = rig.client.clone();
        tokio::spawn(async move { client.hand_in(keyed("held", json!({}))).await })
    };
    let held_twice = {
        let client = rig.client.clone();
        let twice = vec![keyed("held", json!({})), keyed("held", json!({}))];
        tokio::spawn(async move { client.submit_batch(twice).await })
    };
    let batch = (0..50)
        .map(|i| keyed(&format!("free-{i}"), json!({})))
        .collect();
    let begin = std::time::Instant::now();
    let verdicts = rig.client.submit_batch(batch).await?;
    ensure!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    ensure!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    for i in 0..20 {
        let free = match i % 2 {
            0 => submission("noop", &json!({})),
            _ => keyed(&format!("single-{i}"), json!({})),
        };
        rig.client.hand_in(free).await?;
    }
    ensure!(
        begin.elapsed() < Duration::from_secs(5),
        "singles: {:?}",
        begin.elapsed()
    );
    ensure!(!held.is_finished(), "the one whose key is held waits");
    foreign.rollback().await?;
    let answer = held.await??;
    for verdict in held_twice.await?? {
        let verdict = verdict.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        ensure!(verdict == answer.execution_id, "{verdict}");
    }
    let execution = rig.client.wait_for(&answer.execution_id).await?;
    ensure!(
        execution.state() == ExecutionState::Succeeded,
        "{execution:?}"
    );
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_later_waits_for_its_time_near_and_far() -> Result<()> {
    let rig = Rig::start(|options| {
        options.env.push(ExtraEnv {
            service: Service::Scheduler,
            name: "DUE_HORIZON".to_owned(),
            value: "2s".to_owned(),
        });
    })
    .await?;
    let now = SystemTime::now();
    let near = rig.client.submit(in_time(Duration::from_secs(1))).await?;
    let beyond_memory = rig.client.submit(in_time(Duration::from_secs(5))).await?;
    let beyond_windows = rig
        .client
        .submit(in_time(Duration::from_secs(90 * 24 * 3_600)))
        .await?;
    for id in [&near, &beyond_memory, &beyond_windows] {
        let execution = rig.client.get(id).await?;
        ensure!(
            execution.state() == ExecutionState::Scheduled,
            "{execution:?}"
        );
        ensure!(execution.due_at.is_some(), "{execution:?}");
    }
    for id in [&near, &beyond_memory] {
        let execution = rig.client.wait_for(id).await?;
        ensure!(
            execution.state() == ExecutionState::Succeeded,
            "{execution:?}"
        );
        let due: SystemTime = execution.due_at.context("due")?.try_into()?;
        let begun: SystemTime = execution.attempts[0]
            .dispatched_at
            .context("begun")?
            .try_into()?;
        ensure!(begun >= due && due > now, "begun {begun:?}, due {due:?}");
        let late = begun.duration_since(due)?;
        ensure!(late < Duration::from_millis(1_500), "{late:?} late");
    }
    for id in [&beyond_windows] {
        ensure!(rig.client.cancel(id).await? == ExecutionState::Cancelled);
        let execution = rig.client.get(id).await?;
        ensure!(
            execution.state() == ExecutionState::Cancelled,
            "{execution:?}"
        );
        ensure!(execution.attempts.is_empty(), "{execution:?}");
    }
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_ends_what_waits_and_stops_what_runs() -> Result<()> {
    let rig = Rig::start(|options| (options.workers, options.worker_slots) = (1, 1)).await?;
    let running = rig
        .client
        .submit(submission("sleep", &json!({"ms": 60_000})))
        .await?;
    let mut changes = rig.client.watch(vec![running.clone()]);
    while changes.next().await?.context("a change")?.state() != ExecutionState::Running {}
    let mut queued = Vec::new();
    for _ in 0..6 {
        queued.push(rig.client.submit(submission("noop", &json!({}))).await?);
    }
    let scheduled = rig.client.submit(in_time(Duration::from_secs(60))).await?;
    for id in [&queued[2], &queued[0], &scheduled] {
        ensure!(rig.client.cancel(id).await? == ExecutionState::Cancelled);
        ensure!(
            rig.client.cancel(id).await? == ExecutionState::Cancelled,
            "once more is the same"
        );
        let execution = rig.client.get(id).await?;
        ensure!(
            execution.state() == ExecutionState::Cancelled,
            "{execution:?}"
        );
    }
    ensure!(rig.client.cancel(&running).await? == ExecutionState::Running);
    let execution = rig.client.wait_for(&running).await?;
    ensure!(
        execution.state() == ExecutionState::Cancelled,
        "{execution:?}"
    );
    ensure!(
        execution.attempts[0].result() == AttemptResult::Cancelled,
        "{execution:?}"
    );
    for id in [&queued[1], &queued[3], &queued[4], &queued[5]] {
        let execution = rig.client.wait_for(id).await?;
        ensure!(
            execution.state() == ExecutionState::Succeeded,
            "{execution:?}"
        );
    }
    let late = rig.client.cancel(&queued[1]).await.expect_err("it is over");
    ensure!(late.code() == Code::FailedPrecondition, "{late:?}");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}
