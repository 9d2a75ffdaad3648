//! The whole path: what a client hands in, and what it is told.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use cluster::{ExtraEnv, Queue, Service, Tenant};
use e2e::{Rig, retry_policy, submission};
use proto::v1::{Attempt, AttemptResult, Execution, ExecutionState, Reason, Submission};
use serde_json::json;
use tonic::Code;
use watchwork::client::Client;

/// By the clock of the database and by that of a worker: they may round differently.
const CLOSE: Duration = Duration::from_millis(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_and_its_client_is_told_output_and_phases() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let mut command = submission("command", &json!({"argv": ["printf", "%s", "done"]}));
    command.correlation_id = "order-7".to_owned();
    command.labels = [("team".to_owned(), "night".to_owned())].into();
    let id = rig.client.submit(command).await?;

    let mut changes = rig.client.watch(vec![id.clone()]);
    let mut states = Vec::new();
    while let Some(change) = changes.next().await? {
        ensure!(change.execution_id == id);
        states.push(change.state());
    }
    ensure!(
        states.last() == Some(&ExecutionState::Succeeded),
        "{states:?}"
    );

    let execution = rig.client.get(&id).await?;
    ensure!(execution.state() == ExecutionState::Succeeded);
    ensure!(execution.output[..] == *b"done", "{:?}", execution.output);
    ensure!(execution.output_content_type.starts_with("text/plain"));
    ensure!(execution.correlation_id == "order-7" && execution.queue == "default");
    ensure!(execution.labels["team"] == "night");
    ensure!(execution.attempts.len() == 1, "{:?}", execution.attempts);
    let attempt = &execution.attempts[0];
    ensure!(attempt.fence == execution.fence && attempt.fence > 0);
    ensure!(attempt.worker_id.starts_with("worker-"), "{attempt:?}");
    phases_fill_the_time_from_submitted_to_recorded(&execution, attempt)?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_into_success_or_the_dead_letter_queue() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let soon = Duration::from_millis(50);
    let failing = |payload, attempts| Submission {
        retry_policy: Some(retry_policy(attempts, soon)),
        ..submission("fail", &payload)
    };
    let twice = rig.client.submit(failing(json!({"times": 2}), 5)).await?;
    let always = rig
        .client
        .submit(failing(json!({"message": "no"}), 3))
        .await?;
    let useless = rig
        .client
        .submit(failing(json!({"permanent": true}), 5))
        .await?;

    let twice = rig.client.wait_for(&twice).await?;
    ensure!(twice.state() == ExecutionState::Succeeded, "{twice:?}");
    let errors = [
        AttemptResult::Error,
        AttemptResult::Error,
        AttemptResult::Success,
    ];
    ensure!(results(&twice) == errors, "{twice:?}");
    ensure!(numbers(&twice) == [1, 2, 3], "{twice:?}");

    let always = rig.client.wait_for(&always).await?;
    ensure!(always.state() == ExecutionState::DeadLettered, "{always:?}");
    ensure!(always.reason() == Reason::AttemptsExhausted, "{always:?}");
    ensure!(results(&always) == [AttemptResult::Error; 3], "{always:?}");
    ensure!(always.attempts[2].error_message == "no" && always.max_attempts == 3);

    let useless = rig.client.wait_for(&useless).await?;
    ensure!(useless.state() == ExecutionState::Failed, "{useless:?}");
    ensure!(useless.reason() == Reason::NotRetryable, "{useless:?}");
    ensure!(results(&useless) == [AttemptResult::Error], "{useless:?}");
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_or_somebody_elses_is_refused_clearly() -> Result<()> {
    let rig = Rig::start(|options| {
        options.tenants.push(Tenant {
            name: "other".to_owned(),
            queues: vec![Queue::new("default", 1)],
        });
    })
    .await?;
    let id = rig.client.submit(submission("noop", &json!({}))).await?;
    let address = rig.cluster.gateway_url().context("a gateway")?;
    let other_key = rig.cluster.key_of("other").context("a key")?;
    let other = Client::new(&address, other_key).map_err(|why| anyhow!(why))?;
    let refused = other.get(&id).await.expect_err("it is another tenant's");
    ensure!(refused.code() == Code::NotFound, "{refused:?}");
    let refused = other.watch(vec![id.clone()]).next().await;
    ensure!(refused.expect_err("likewise").code() == Code::NotFound);
    let forged = format!("{}00", &id[..id.len() - 2]);
    let refused = rig
        .client
        .get(&forged)
        .await
        .expect_err("there is none of that id");
    ensure!(refused.code() == Code::NotFound, "{refused:?}");

    let unknown_type = rig
        .client
        .submit(submission("no-such-type", &json!({})))
        .await;
    let refused = unknown_type.expect_err("no worker has a handler for it");
    ensure!(refused.message().contains("no-such-type"), "{refused:?}");
    let elsewhere = Submission {
        queue: "no-such-queue".to_owned(),
        ..submission("noop", &json!({}))
    };
    let refused = rig
        .client
        .submit(elsewhere.clone())
        .await
        .expect_err("no such queue");
    ensure!(refused.code() == Code::NotFound, "{refused:?}");
    ensure!(refused.message().contains("no-such-queue"), "{refused:?}");

    let verdicts = rig
        .client
        .submit_batch(vec![submission("noop", &json!({})), elsewhere])
        .await?;
    ensure!(
        verdicts[0].is_ok(),
        "one item's fault is not the other's: {verdicts:?}"
    );
    let refusal = verdicts[1].as_ref().expect_err("its queue doesn't exist");
    ensure!(Code::from(refusal.code) == Code::NotFound, "{refusal:?}");
    let stranger =
        Client::new(&address, "wk_0000000000000000_nobody").map_err(|why| anyhow!(why))?;
    let refused = stranger.get(&id).await.expect_err("a key that nobody has");
    ensure!(refused.code() == Code::Unauthenticated, "{refused:?}");
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_beyond_what_is_read_ahead_waits_in_the_due_table_and_runs() -> Result<()> {
    let rig = Rig::start(|options| {
        options.env.push(ExtraEnv {
            service: Service::Scheduler,
            name: "DUE_HORIZON".to_owned(),
            value: "1s".to_owned(),
        });
    })
    .await?;
    let backoff = Duration::from_secs(3);
    let id = rig
        .client
        .submit(Submission {
            retry_policy: Some(retry_policy(2, backoff)),
            ..submission("fail", &json!({"times": 1}))
        })
        .await?;
    let execution = rig.client.wait_for(&id).await?;
    ensure!(
        execution.state() == ExecutionState::Succeeded,
        "{execution:?}"
    );
    let rows: i64 = sqlx::query_scalar("select count(*) from due")
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(rows == 1, "{rows} rows in due");
    let attempts = &execution.attempts;
    let again = time(attempts[1].dispatched_at)? - time(attempts[0].recorded_at)?;
    let late = again
        .checked_sub(backoff - CLOSE)
        .context("tried again too soon")?;
    ensure!(late < Duration::from_secs(2), "tried again {late:?} late");
    rig.stop().await
}

fn results(execution: &Execution) -> Vec<AttemptResult> {
    execution.attempts.iter().map(Attempt::result).collect()
}

fn numbers(execution: &Execution) -> Vec<u32> {
    execution
        .attempts
        .iter()
        .map(|attempt| attempt.number)
        .collect()
}

fn phases_fill_the_time_from_submitted_to_recorded(
    execution: &Execution,
    attempt: &Attempt,
) -> Result<()> {
    let phases = [
        attempt.queued,
        attempt.dispatching,
        attempt.running,
        attempt.reporting,
    ];
    let phases = phases.into_iter().map(|phase| {
        let phase = phase.context("a phase is missing")?;
        Duration::try_from(phase).map_err(|error| anyhow!("{error}"))
    });
    let sum: Duration = phases.collect::<Result<Vec<_>>>()?.into_iter().sum();
    let took = time(attempt.recorded_at)? - time(execution.submitted_at)?;
    ensure!(
        sum.abs_diff(took) <= CLOSE,
        "phases sum to {sum:?} of {took:?}"
    );
    Ok(())
}

/// Since 1970.
fn time(timestamp: Option<prost_types::Timestamp>) -> Result<Duration> {
    let timestamp = timestamp.context("a time is missing")?;
    Ok(Duration::new(
        u64::try_from(timestamp.seconds)?,
        u32::try_from(timestamp.nanos)?,
    ))
}
