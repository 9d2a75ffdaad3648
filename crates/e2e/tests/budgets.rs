//! Retries, the three budgets, total time, and what a person does afterwards, through the whole path.

mod lanes;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use e2e::{Rig, retry_policy, submission};
use futures::future::try_join_all;
use proto::v1::{
    Attempt, AttemptResult, BackoffGrowth, Execution, ExecutionState, ListExecutionsRequest,
    Reason, RetryPolicy, Submission,
};
use serde_json::{Value, json};
use tonic::Code;
use watchwork::client::Client;

fn with_policy(job_type: &str, payload: &Value, policy: RetryPolicy) -> Submission {
    Submission {
        retry_policy: Some(policy),
        ..submission(job_type, payload)
    }
}

fn seconds(seconds: f64) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(Duration::from_secs_f64(seconds)).ok()
}

async fn run(client: &Client, submission: Submission) -> Result<Execution> {
    let handed_in = client.hand_in(submission).await?;
    Ok(client.wait_for(&handed_in.execution_id).await?)
}

/// How long was waited after each attempt that was to be followed by another.
fn waits(execution: &Execution) -> Vec<Duration> {
    let time = |at: Option<prost_types::Timestamp>| SystemTime::try_from(at?).ok();
    let wait = |attempt: &Attempt| {
        let (from, to) = (time(attempt.recorded_at)?, time(attempt.next_attempt_at)?);
        to.duration_since(from).ok()
    };
    execution.attempts.iter().filter_map(wait).collect()
}

fn stands(execution: &Execution, state: ExecutionState, reason: Reason) -> Result<()> {
    ensure!(
        (execution.state(), execution.reason()) == (state, reason),
        "{execution:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_grow_as_asked_and_a_snooze_costs_no_attempt() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let ms = Duration::from_millis;
    let fails = |growth: BackoffGrowth| {
        let policy = RetryPolicy {
            growth: growth.into(),
            ..retry_policy(4, ms(100))
        };
        run(&rig.client, with_policy("fail", &json!({}), policy))
    };
    for (growth, expected) in [
        (BackoffGrowth::Exponential, [100, 200, 400]),
        (BackoffGrowth::Linear, [100, 200, 300]),
        (BackoffGrowth::Fixed, [100, 100, 100]),
    ] {
        let dead = fails(growth).await?;
        stands(
            &dead,
            ExecutionState::DeadLettered,
            Reason::AttemptsExhausted,
        )?;
        ensure!(waits(&dead) == expected.map(ms), "{growth:?}: {dead:?}");
    }

    let later = json!({"times": 1, "retry_after_ms": 1_200});
    let done = run(
        &rig.client,
        with_policy("fail", &later, retry_policy(2, ms(10))),
    )
    .await?;
    stands(&done, ExecutionState::Succeeded, Reason::Unspecified)?;
    ensure!(
        waits(&done) == [ms(1_200)],
        "as the handler asked: {done:?}"
    );

    let begin = SystemTime::now() + ms(1_500);
    let begin = begin.duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let put_off = json!({"ms": 0, "not_before_unix_ms": begin, "snooze_ms": 400});
    let done = run(
        &rig.client,
        with_policy("sleep", &put_off, retry_policy(1, ms(10))),
    )
    .await?;
    stands(&done, ExecutionState::Succeeded, Reason::Unspecified)?;
    let snoozed = done
        .attempts
        .iter()
        .filter(|a| a.result() == AttemptResult::Snoozed);
    ensure!((3..=4).contains(&snoozed.count()), "{done:?}");
    ensure!(done.attempts.iter().all(|a| a.number == 1), "{done:?}");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_total_time_has_failed_wherever_it_was() -> Result<()> {
    let rig = Rig::start(|options| {
        options.workers = 1;
        options.worker_slots = 1;
    })
    .await?;
    let within = |total: f64, attempts: u32| RetryPolicy {
        total_timeout: seconds(total),
        ..retry_policy(attempts, Duration::from_secs(20))
    };

    // Its next attempt would come too late: it isn't waited for.
    let failing = with_policy("fail", &json!({}), within(15.0, 5));
    let failed = run(&rig.client, failing).await?;
    stands(&failed, ExecutionState::Failed, Reason::TotalTimeout)?;
    ensure!(failed.attempts.len() == 1, "{failed:?}");

    // It runs, and is stopped; the next in line waits for its slot meanwhile, and never begins.
    let sleep = |ms: u64| json!({"ms": ms});
    let running = with_policy("sleep", &sleep(60_000), within(2.0, 5));
    let waiting = with_policy("sleep", &sleep(0), within(1.0, 5));
    let running = rig.client.hand_in(running).await?.execution_id;
    let waiting = rig.client.hand_in(waiting).await?.execution_id;
    let stopped = rig.client.wait_for(&running).await?;
    stands(&stopped, ExecutionState::Failed, Reason::TotalTimeout)?;
    ensure!(stopped.attempts[0].result() == AttemptResult::Timeout);
    ensure!(stopped.expires_at.is_some(), "{stopped:?}");
    let expired = rig.client.wait_for(&waiting).await?;
    stands(&expired, ExecutionState::Failed, Reason::TotalTimeout)?;
    let ran = expired.attempts[0].running.unwrap_or_default();
    ensure!(
        (ran.seconds, ran.nanos) == (0, 0),
        "it never began: {expired:?}"
    );

    // Who has it run again gives it as much time anew.
    rig.client.retry(&waiting).await?;
    let done = rig.client.wait_for(&waiting).await?;
    stands(&done, ExecutionState::Succeeded, Reason::Unspecified)?;
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_spends_a_budget_of_its_own() -> Result<()> {
    let rig = Rig::start(|options| options.workers = 1).await?;
    let survives = |max_lost: u32| {
        let policy = RetryPolicy {
            max_lost: Some(max_lost),
            ..retry_policy(1, Duration::ZERO)
        };
        with_policy("sleep", &json!({"ms": 1_500}), policy)
    };
    let poison = rig.client.hand_in(survives(0)).await?.execution_id;
    let lucky = rig.client.hand_in(survives(1)).await?.execution_id;
    for id in [&poison, &lucky] {
        let mut changes = rig.client.watch(vec![id.clone()]);
        while let Some(change) = changes.next().await? {
            if change.state() == ExecutionState::Running {
                break;
            }
        }
    }
    rig.cluster.kill("worker-1")?;
    rig.cluster.restart("worker-1").await?;
    let dead = rig.client.wait_for(&poison).await?;
    stands(&dead, ExecutionState::DeadLettered, Reason::Poison)?;
    let done = rig.client.wait_for(&lucky).await?;
    stands(&done, ExecutionState::Succeeded, Reason::Unspecified)?;
    let results: Vec<_> = done
        .attempts
        .iter()
        .map(|a| (a.number, a.result()))
        .collect();
    ensure!(
        results == [(1, AttemptResult::Lost), (1, AttemptResult::Success)],
        "{done:?}"
    );
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_run_again_or_are_discarded() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let client = &rig.client;
    let dead = dead_letters_of(client, 6).await?;
    ensure!(dead_letters(client).await?.len() == 6);

    client.retry(&dead[0]).await?;
    let twice = client.wait_for(&dead[0]).await?;
    stands(
        &twice,
        ExecutionState::DeadLettered,
        Reason::AttemptsExhausted,
    )?;
    let fences: Vec<u64> = twice.attempts.iter().map(|a| a.fence).collect();
    ensure!(fences.len() == 2 && fences[0] < fences[1], "{twice:?}");

    for _ in 0..2 {
        let state = client.discard(&dead[1]).await?;
        ensure!(state == ExecutionState::DeadLettered, "{state:?}");
    }
    let discarded = client.get(&dead[1]).await?;
    stands(&discarded, ExecutionState::DeadLettered, Reason::Discarded)?;
    let left = dead_letters(client).await?;
    ensure!(left.len() == 5 && !left.contains(&dead[1]), "{left:?}");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_or_was_cancelled_runs_again_and_nothing_else_does() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let client = &rig.client;
    let failed = run(client, submission("fail", &json!({"permanent": true}))).await?;
    let refused = client.discard(&failed.execution_id).await;
    ensure!(
        code(&refused) == Some(Code::FailedPrecondition),
        "{refused:?}"
    );
    client.retry(&failed.execution_id).await?;
    let failed = client.wait_for(&failed.execution_id).await?;
    ensure!(failed.attempts.len() == 2, "{failed:?}");

    let done = run(client, submission("noop", &json!({}))).await?;
    let in_an_hour = Submission {
        due_at: Some((SystemTime::now() + Duration::from_secs(3_600)).into()),
        ..submission("noop", &json!({}))
    };
    let later = client.hand_in(in_an_hour).await?.execution_id;
    for id in [&done.execution_id, &later] {
        let refused = client.retry(id).await;
        ensure!(
            code(&refused) == Some(Code::FailedPrecondition),
            "{refused:?}"
        );
    }
    client.cancel(&later).await?;
    client.retry(&later).await?;
    let done = client.wait_for(&later).await?;
    stands(&done, ExecutionState::Succeeded, Reason::Unspecified)?;

    // One that nobody ever had.
    let nobodys = client.retry("0199c8a1-7d2e-8003-8000-0000000c3a91").await;
    ensure!(code(&nobodys) == Some(Code::NotFound), "{nobodys:?}");
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_again_is_not_lost_with_the_scheduler_that_said_so() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let dead = dead_letters_of(&rig.client, 40).await?;
    rig.cluster.kill("worker-1")?;
    rig.cluster.kill("worker-2")?;
    // Two at once want the same: it runs once more.
    let twice = dead.iter().chain(&dead).map(|id| rig.client.retry(id));
    for state in try_join_all(twice).await? {
        ensure!(state == ExecutionState::Queued, "{state:?}");
    }
    rig.cluster.kill("scheduler-1")?;
    rig.cluster.restart("worker-1").await?;
    for id in &dead {
        let ended = rig.client.wait_for(id).await?;
        let failures = ended.attempts.iter();
        let failures = failures
            .filter(|a| a.result() == AttemptResult::Error)
            .count();
        ensure!(failures == 2, "{ended:?}");
    }
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

/// So many executions that are dead letters after one attempt.
async fn dead_letters_of(client: &Client, count: usize) -> Result<Vec<String>> {
    let policy = retry_policy(1, Duration::ZERO);
    let fail = |_| run(client, with_policy("fail", &json!({}), policy));
    let dead = try_join_all((0..count).map(fail)).await?;
    Ok(dead.into_iter().map(|dead| dead.execution_id).collect())
}

/// The dead letters that nobody has discarded.
async fn dead_letters(client: &Client) -> Result<Vec<String>> {
    let list = ListExecutionsRequest {
        states: vec![ExecutionState::DeadLettered.into()],
        without_discarded: true,
        ..ListExecutionsRequest::default()
    };
    let page = client.list(list).await.context("the dead letters")?;
    let executions = page.executions.into_iter();
    Ok(executions.map(|execution| execution.execution_id).collect())
}

fn code<T>(answer: &Result<T, tonic::Status>) -> Option<Code> {
    answer.as_ref().err().map(tonic::Status::code)
}
