//! A handler that takes its worker's process down with it, among others that did nothing wrong.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use cluster::Service;
use e2e::{Rig, retry_policy, submission};
use proto::v1::{Attempt, AttemptResult, Execution, ExecutionState, Reason, Submission};
use serde_json::json;
use tokio::time::sleep;

const NEIGHBOURS: usize = 16;
const LOOK: Duration = Duration::from_millis(50);
/// Lost workers that make a suspect.
const SUSPECT_FROM: usize = 2;

/// Its attempts have no budget of errors to spend.
fn with_one_attempt(submission: Submission) -> Submission {
    Submission {
        retry_policy: Some(retry_policy(1, Duration::ZERO)),
        ..submission
    }
}

fn losses(attempts: &[Attempt]) -> usize {
    let lost = |attempt: &&Attempt| attempt.result() == AttemptResult::Lost;
    attempts.iter().filter(lost).count()
}

/// When a handler ran, by the database's clock.
fn run_of(attempt: &Attempt) -> Result<Range<SystemTime>> {
    let dispatched = attempt.dispatched_at.context("never dispatched")?;
    let [dispatching, running] =
        [attempt.dispatching, attempt.running].map(Option::unwrap_or_default);
    let begin = SystemTime::try_from(dispatched)? + Duration::try_from(dispatching)?;
    Ok(begin..begin + Duration::try_from(running)?)
}

/// The runs of suspects that came to an end.
fn runs_of_suspects(executions: &[Execution]) -> Result<Vec<Range<SystemTime>>> {
    let mut runs = Vec::new();
    for execution in executions {
        let attempts = &execution.attempts;
        for (place, attempt) in attempts.iter().enumerate() {
            if losses(&attempts[..place]) >= SUSPECT_FROM
                && attempt.result() == AttemptResult::Success
            {
                runs.push(run_of(attempt)?);
            }
        }
    }
    runs.sort_by_key(|run| run.start);
    Ok(runs)
}

/// Starts workers again that died, as whoever runs them does.
async fn keep_workers(rig: &Rig) -> Result<()> {
    loop {
        for member in rig.cluster.members() {
            if member.service() == Service::Worker && !member.alive() {
                rig.cluster.restart(member.instance()).await?;
            }
        }
        sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_a_dead_letter_after_its_budget_and_costs_its_neighbours_no_errors() -> Result<()>
{
    let rig = Rig::start(|options| {
        options.workers = 1;
        options.worker_slots = 60;
    })
    .await?;
    let sleeps = || with_one_attempt(submission("sleep", &json!({"ms": 300})));
    let neighbours = rig.client.submit_batch(vec![sleeps(); NEIGHBOURS]).await?;
    let neighbours: Vec<String> = neighbours.into_iter().flatten().collect();
    ensure!(neighbours.len() == NEIGHBOURS);
    // The shell's parent is the worker.
    let kills = json!({"argv": ["sh", "-c", "kill -9 $PPID"]});
    let poison = with_one_attempt(submission("command", &kills));
    let poison = rig.client.hand_in(poison).await?.execution_id;
    let ends = async {
        let dead = rig.client.wait_for(&poison).await?;
        let mut others = Vec::new();
        for id in &neighbours {
            others.push(rig.client.wait_for(id).await?);
        }
        anyhow::Ok((dead, others))
    };
    let (dead, others) = tokio::select! {
        ended = ends => ended?,
        kept = keep_workers(&rig) => return kept,
    };
    ensure!(
        (dead.state(), dead.reason()) == (ExecutionState::DeadLettered, Reason::Poison),
        "{dead:?}"
    );
    let begun = |attempt: &&Attempt| attempt.result() != AttemptResult::Returned;
    let begun = dead.attempts.iter().filter(begun).count();
    ensure!((begun, losses(&dead.attempts)) == (4, 4), "{dead:?}");
    for other in &others {
        ensure!(other.state() == ExecutionState::Succeeded, "{other:?}");
        let lost = losses(&other.attempts);
        ensure!(lost <= SUSPECT_FROM, "lost with another suspect: {other:?}");
    }
    let runs = runs_of_suspects(&others)?;
    ensure!(runs.len() > 2, "nobody was beside it twice");
    for (one, next) in runs.iter().zip(&runs[1..]) {
        ensure!(one.end <= next.start, "beside each other: {one:?} {next:?}");
    }
    rig.stop().await
}
