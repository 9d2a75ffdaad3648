//! Who hands work in, and cancels some of it.

use std::time::Duration;

use domain::{Backoff, ExecutionId, Growth, RetryPolicy};
use proto::internal::v1::{
    CancelExecutionRequest, ForwardedSubmission, ReviseExecutionRequest, Revision, SubmitRequest,
};
use proto::v1::{ExecutionState, Submission, submit_verdict::Verdict};
use rand::Rng;
use rand::rngs::StdRng;

use super::replica::LANES;
use super::storage::{QUEUES, TENANT, TYPE};
use super::world::World;

/// How failures are retried in the world.
pub(super) fn policy(max_attempts: u16) -> RetryPolicy {
    RetryPolicy {
        max_attempts,
        backoff: Backoff {
            growth: Growth::Exponential,
            initial: Duration::from_millis(300),
            multiplier: 2.0,
            max: Duration::from_secs(3),
            jitter: true,
        },
        ..RetryPolicy::default()
    }
}

/// Hands in `count` submissions over a time.
pub(super) async fn hand_in(world: World, mut chance: StdRng, count: u64, over: Duration) {
    let pause = over / u32::try_from(count).unwrap_or(1);
    for number in 0..count {
        tokio::time::sleep(pause.mul_f64(chance.random_range(0.0..2.0))).await;
        let keyed = chance.random_ratio(1, 4);
        let item = item(&mut chance, number, keyed);
        let (world, again) = (world.clone(), chance.random_range(200..900));
        tokio::spawn(hand_in_one(
            world,
            item,
            number,
            Duration::from_millis(again),
        ));
    }
}

/// Until it is known to be taken; what has a key is sent again though it may have been.
async fn hand_in_one(world: World, item: ForwardedSubmission, number: u64, again: Duration) {
    let submission = item.submission.clone().unwrap_or_default();
    let keyed = !submission.idempotency_key.is_empty();
    for _ in 0..60 {
        let Some(replica) = world.owner_of(item.lane) else {
            tokio::time::sleep(again).await;
            continue;
        };
        let request = SubmitRequest {
            submissions: vec![item.clone()],
            forwarded: true,
            hasty: false,
        };
        let answer = replica.internal.accept(request).await;
        let verdict = answer
            .verdicts
            .into_iter()
            .next()
            .and_then(|verdict| verdict.verdict);
        world
            .history
            .note(|| format!("client: {number} at {} gets {verdict:?}", replica.name));
        match verdict {
            Some(Verdict::ExecutionId(id)) => {
                let id: ExecutionId = id.parse().expect("an id");
                // Many submissions may share a key.
                world.truth.accepted(
                    id,
                    if keyed {
                        key_number(&submission)
                    } else {
                        number
                    },
                );
                return;
            }
            Some(Verdict::Refusal(why)) => {
                let sure = why.message.contains("nothing was taken");
                if !sure && !keyed {
                    return;
                }
            }
            None => return,
        }
        tokio::time::sleep(again).await;
    }
}

fn key_number(submission: &Submission) -> u64 {
    let key = submission.idempotency_key.trim_start_matches("key-");
    1_000_000 + key.parse::<u64>().unwrap_or(0)
}

fn item(chance: &mut StdRng, number: u64, keyed: bool) -> ForwardedSubmission {
    let key = chance.random_range(0..8);
    // What has the same key is the same.
    let (lane, queue) = match keyed {
        true => (key % u32::from(LANES), key as usize % QUEUES.len()),
        false => (
            chance.random_range(0..u32::from(LANES)),
            chance.random_range(0..QUEUES.len()),
        ),
    };
    let later = chance.random_ratio(1, 4) && !keyed;
    let labels = [("n".to_owned(), number.to_string())];
    let mut submission = Submission {
        job_type: TYPE.to_owned(),
        queue: QUEUES[queue].to_owned(),
        priority: chance.random_range(1..=4),
        labels: labels.into(),
        retry_policy: Some(proto::v1::RetryPolicy {
            max_attempts: Some(chance.random_range(1..=4)),
            initial_backoff: prost_types::Duration::try_from(Duration::from_millis(300)).ok(),
            multiplier: Some(2.0),
            max_backoff: prost_types::Duration::try_from(Duration::from_secs(3)).ok(),
            jitter: Some(true),
            ..proto::v1::RetryPolicy::default()
        }),
        ..Submission::default()
    };
    if keyed {
        submission.idempotency_key = format!("key-{key}");
        submission.labels.insert("key".to_owned(), key.to_string());
    }
    if later {
        // By the world's clock, which begins in 2027.
        let micros = 1_800_000_000_000_000 + chance.random_range(0..20_000_000i64);
        submission.due_at = Some(prost_types::Timestamp {
            seconds: micros / 1_000_000,
            nanos: i32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0),
        });
    }
    ForwardedSubmission {
        tenant: u32::try_from(TENANT).unwrap_or(1),
        queue: u32::try_from(queue + 1).unwrap_or(1),
        lane,
        submission: Some(submission),
        origin: None,
    }
}

/// Cancels some of what was accepted.
pub(super) async fn cancel_some(world: World, mut chance: StdRng, count: u32, over: Duration) {
    for _ in 0..count {
        let pause = (over / count).mul_f64(chance.random_range(0.0..2.0));
        tokio::time::sleep(pause).await;
        let Some(id) = world.truth.some_accepted(chance.random_range(0..10_000)) else {
            continue;
        };
        let Some(replica) = world.owner_of(u32::from(id.lane().0)) else {
            continue;
        };
        let request = CancelExecutionRequest {
            tenant: u32::try_from(TENANT).unwrap_or(1),
            execution_id: bytes::Bytes::copy_from_slice(id.as_bytes()),
            forwarded: true,
        };
        let answer = replica.internal.cancel(request).await;
        world
            .history
            .note(|| format!("client: cancel {id} gets {answer:?}"));
        let state = answer
            .ok()
            .and_then(|answer| answer.outcome)
            .map(|outcome| outcome.state());
        if state == Some(ExecutionState::Cancelled) {
            world.truth.cancelled(id);
        }
    }
}

/// Has some of what is over run again, and discards some; now and then what isn't over at all.
pub(super) async fn revise_some(world: World, mut chance: StdRng, count: u32, over: Duration) {
    for _ in 0..count {
        let pause = (over / count).mul_f64(chance.random_range(0.0..2.0));
        tokio::time::sleep(pause).await;
        let (nth, at_random) = (chance.random_range(0..10_000), chance.random_ratio(1, 4));
        let unsuccessful = world
            .truth
            .some_unsuccessful(&world.model.state().tables, nth);
        let any = world.truth.some_accepted(nth);
        let Some(id) = unsuccessful.filter(|_| !at_random).or(any) else {
            continue;
        };
        let revision = match chance.random_ratio(1, 4) {
            true => Revision::Discard,
            false => Revision::Retry,
        };
        let Some(replica) = world.owner_of(u32::from(id.lane().0)) else {
            continue;
        };
        world.truth.revising(id);
        let request = ReviseExecutionRequest {
            tenant: u32::try_from(TENANT).unwrap_or(1),
            execution_id: bytes::Bytes::copy_from_slice(id.as_bytes()),
            revision: revision.into(),
            forwarded: true,
        };
        let answer = replica.internal.revise(request).await;
        world
            .history
            .note(|| format!("client: {revision:?} {id} gets {answer:?}"));
        if answer.is_ok() {
            world.truth.revised(id);
        }
    }
}
