//! Who gets the slots: fairness between tenants, strict queues, depth limits, demand, and what comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cluster::{Options, Queue, Tenant};
use e2e::{Rig, hand_in, submission};
use futures::future::try_join_all;
use proto::v1::{Attempt, AttemptResult, Execution, ExecutionState, Priority, Submission};
use serde_json::json;
use tokio::time::sleep;
use tonic::{Code, Status};
use watchwork::client::Client;

/// Far longer than anything takes here; passing is by count.
const DEADLINE: Duration = Duration::from_secs(20);

fn one_worker(options: &mut Options, slots: u32) {
    (options.workers, options.worker_slots) = (1, slots);
}

fn sleeping(ms: u64) -> Submission {
    submission("sleep", &json!({"ms": ms}))
}

fn noop(queue: &str, priority: Priority) -> Submission {
    Submission {
        queue: queue.to_owned(),
        priority: priority.into(),
        ..submission("noop", &json!({}))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_100_000_keeps_no_other_tenant_waiting() -> Result<()> {
    let rig = Rig::start(|options| {
        one_worker(options, 4);
        options.tenants.push(Tenant {
            name: "small".to_owned(),
            queues: vec![Queue::new("default", 1)],
        });
    })
    .await?;
    let address = rig.cluster.gateway_url().context("a gateway")?;
    let key = rig.cluster.key_of("small").context("a key")?;
    let small = Client::new(&address, key).map_err(|why| anyhow!(why))?;
    for _ in 0..25 {
        let calls = (0..4).map(|_| hand_in(&rig.client, vec![sleeping(20); 1_000]));
        try_join_all(calls).await?;
    }
    let mut ids = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let id = small.submit(noop("default", Priority::Normal)).await?;
        let done = tokio::time::timeout(DEADLINE, small.wait_for(&id)).await??;
        ensure!(done.state() == ExecutionState::Succeeded, "{done:?}");
        println!("the other tenant's was done after {:?}", begin.elapsed());
        ids.push(id);
    }
    // Those that were claimed before it take 20 ms.
    sleep(Duration::from_secs(1)).await;
    for id in ids {
        let others = claimed_before(&rig, &small.get(&id).await?).await?;
        println!("{others} others were claimed while it waited");
        ensure!(others <= 40, "{others} others were claimed while it waited");
    }
    let waiting: f64 = rig.under_way().await?.iter().map(|s| s.waiting).sum();
    ensure!(waiting > 50_000.0, "there was a backlog: {waiting}");
    rig.stop().await
}

/// How many others were claimed from when an execution was accepted until it was.
async fn claimed_before(rig: &Rig, execution: &Execution) -> Result<i64> {
    const COUNT: &str = "select count(*) from outcome
         where claimed_at > to_timestamp($1::float8) and claimed_at < to_timestamp($2::float8)";
    let accepted = execution.submitted_at.context("accepted")?;
    let claimed = execution.attempts[0].dispatched_at.context("claimed")?;
    let seconds = |at: prost_types::Timestamp| at.seconds as f64 + f64::from(at.nanos) / 1e9;
    Ok(sqlx::query_scalar(COUNT)
        .bind(seconds(accepted))
        .bind(seconds(claimed))
        .fetch_one(rig.ledger.pool())
        .await?)
}

/// Takes all of one worker's slots for as long as it isn't cancelled.
struct Blocker<'a> {
    client: &'a Client,
    ids: Vec<String>,
}

impl<'a> Blocker<'a> {
    async fn begin(client: &'a Client, slots: usize) -> Result<Self> {
        let submitted = (0..slots).map(|_| client.submit(sleeping(600_000)));
        let ids = try_join_all(submitted).await?;
        for id in &ids {
            let running = |execution: &Execution| execution.state() == ExecutionState::Running;
            until(client, id, running).await?;
        }
        Ok(Self { client, ids })
    }

    async fn end(self) -> Result<()> {
        for id in &self.ids {
            self.client.cancel(id).await?;
        }
        Ok(())
    }
}

async fn until(client: &Client, id: &str, is: impl Fn(&Execution) -> bool) -> Result<Execution> {
    let begin = Instant::now();
    loop {
        let execution = client.get(id).await?;
        if is(&execution) {
            return Ok(execution);
        }
        ensure!(begin.elapsed() < DEADLINE, "{execution:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_queue_serves_a_higher_priority_first_always() -> Result<()> {
    let rig = Rig::start(|options| {
        one_worker(options, 1);
        let strict = Queue {
            strict: true,
            ..Queue::new("strict", 1)
        };
        options.tenants[0].queues.push(strict);
    })
    .await?;
    let blocker = Blocker::begin(&rig.client, 1).await?;
    let mut ids = Vec::new();
    for priority in [Priority::Low, Priority::Normal, Priority::Critical] {
        let submissions = vec![noop("strict", priority); 30];
        let handed_in = hand_in(&rig.client, submissions).await?;
        ids.push(handed_in.into_iter().map(|one| one.id).collect::<Vec<_>>());
    }
    blocker.end().await?;
    let mut fences = Vec::new();
    for ids in &ids {
        let done = try_join_all(ids.iter().map(|id| rig.client.wait_for(id))).await?;
        fences.push(done.iter().map(|one| one.fence).collect::<Vec<u64>>());
    }
    let first_and_last =
        |fences: &Vec<u64>| (fences.iter().min().copied(), fences.iter().max().copied());
    let [low, normal, critical] = [0, 1, 2].map(|place: usize| first_and_last(&fences[place]));
    ensure!(
        critical.1 <= normal.0,
        "critical {critical:?}, normal {normal:?}"
    );
    ensure!(normal.1 <= low.0, "normal {normal:?}, low {low:?}");
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_has_room_again_when_its_work_is_done() -> Result<()> {
    let rig = Rig::start(|options| {
        one_worker(options, 1);
        let small = Queue {
            max_depth: Some(10),
            ..Queue::new("small", 1)
        };
        options.tenants[0].queues.push(small);
    })
    .await?;
    let client = &rig.client;
    let blocker = Blocker::begin(client, 1).await?;
    let keyed = Submission {
        idempotency_key: "first".to_owned(),
        ..noop("small", Priority::High)
    };
    let first = client.submit(keyed.clone()).await?;
    let verdicts = client
        .submit_batch(vec![noop("small", Priority::Low); 12])
        .await?;
    let taken: Vec<&String> = verdicts.iter().flatten().collect();
    ensure!(taken.len() == 9, "{verdicts:?}");
    ensure!(verdicts[..9].iter().all(Result::is_ok), "{verdicts:?}");

    let refused = client.submit(noop("small", Priority::Critical)).await;
    let refused = refused.expect_err("it is full");
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    let told = ["\"small\"", "10 executions wait", "max_depth is 10"];
    ensure!(
        told.iter().all(|part| refused.message().contains(part)),
        "{refused:?}"
    );
    let again = client.hand_in(keyed).await?;
    ensure!(again.duplicate && again.execution_id == first, "{again:?}");
    client.submit(noop("default", Priority::Normal)).await?;

    blocker.end().await?;
    for id in taken {
        client.wait_for(id).await?;
    }
    client.submit(noop("small", Priority::Low)).await?;
    a_tenants_depth_is_limited_once_it_is_set(&rig).await?;
    rig.stop().await
}

async fn a_tenants_depth_is_limited_once_it_is_set(rig: &Rig) -> Result<()> {
    let set = |depth: Option<i64>| {
        sqlx::query("update tenant set max_depth = $1")
            .bind(depth)
            .execute(rig.ledger.pool())
    };
    let submit = || rig.client.submit(noop("default", Priority::Normal));
    set(Some(0)).await?;
    let refused = |submitted: &Result<String, Status>| submitted.is_err();
    let refusal = repeat_until(submit, refused).await?;
    let refusal = refusal.expect_err("nothing may wait");
    ensure!(refusal.code() == Code::ResourceExhausted, "{refusal:?}");
    ensure!(refusal.message().contains("tenant \"demo\""), "{refusal:?}");
    set(None).await?;
    repeat_until(submit, Result::is_ok).await??;
    Ok(())
}

async fn repeat_until<T, F: Future<Output = T>>(
    ask: impl Fn() -> F,
    is: impl Fn(&T) -> bool,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let answer = ask().await;
        if is(&answer) {
            return Ok(answer);
        }
        ensure!(begin.elapsed() < DEADLINE, "it doesn't come");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_that_has_work_gets_all_slots() -> Result<()> {
    let rig = Rig::start(|options| {
        one_worker(options, 4);
        options.tenants[0].queues[0] = Queue::new("default", 1);
    })
    .await?;
    // Their one lane is one scheduler's: an even split would leave half of the slots to the other.
    let handed_in = hand_in(&rig.client, vec![sleeping(600_000); 6]).await?;
    let ids: Vec<String> = handed_in.into_iter().map(|one| one.id).collect();
    let all = |running: &Result<Vec<String>>| running.as_ref().is_ok_and(|ids| ids.len() == 4);
    repeat_until(|| running(&rig, &ids), all).await??;
    rig.stop().await
}

/// Hands a worker more than it has slots for: quick ones make it ask for more ahead, and sleepers stand
/// behind them. Gives the sleepers that were claimed, in the order in which they begin.
async fn more_than_slots(rig: &Rig, slots: usize) -> Result<Vec<String>> {
    let low = |ms| Submission {
        queue: "strict".to_owned(),
        priority: Priority::Low.into(),
        ..sleeping(ms)
    };
    for _ in 0..10 {
        let mut submissions = vec![low(0); 600];
        submissions.extend(vec![low(600_000); 40]);
        let handed_in = hand_in(&rig.client, submissions).await?;
        let ids: Vec<String> = handed_in.into_iter().map(|one| one.id).collect();
        let (quick, sleepers) = ids.split_at(600);
        try_join_all(quick.iter().map(|id| rig.client.wait_for(id))).await?;
        sleep(Duration::from_millis(300)).await;
        let claimed = running(rig, sleepers).await?;
        if claimed.len() > slots {
            return Ok(claimed);
        }
        for id in sleepers.iter().rev() {
            rig.client.cancel(id).await?;
        }
    }
    Err(anyhow!(
        "the worker never asked for more than it has slots for"
    ))
}

/// Those that are claimed.
async fn running(rig: &Rig, ids: &[String]) -> Result<Vec<String>> {
    let states = try_join_all(ids.iter().map(|id| rig.client.get(id))).await?;
    let running = states
        .into_iter()
        .filter(|one| one.state() == ExecutionState::Running);
    Ok(running.map(|one| one.execution_id).collect())
}

/// One scheduler, a worker with two slots, a strict queue of one lane.
fn two_slots(options: &mut Options) {
    one_worker(options, 2);
    options.schedulers = 1;
    let strict = Queue {
        strict: true,
        ..Queue::new("strict", 1)
    };
    options.tenants[0].queues.push(strict);
}

/// Whether its handler began.
fn ran(attempt: &Attempt) -> bool {
    let ran = attempt.running.unwrap_or_default();
    (ran.seconds, ran.nanos) > (0, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_begun_comes_back_for_something_more_urgent() -> Result<()> {
    let rig = Rig::start(two_slots).await?;
    let claimed = more_than_slots(&rig, 2).await?;
    let urgent = rig
        .client
        .submit(noop("strict", Priority::Critical))
        .await?;
    let (begin, mut left) = (Instant::now(), claimed.clone());
    while left.len() > 2 {
        ensure!(begin.elapsed() < DEADLINE, "{} are still out", left.len());
        left = running(&rig, &claimed).await?;
    }
    println!(
        "{} came back after {:?}",
        claimed.len() - 2,
        begin.elapsed()
    );
    ensure!(left == claimed[..2], "what has begun goes on");
    rig.client.cancel(&left[0]).await?;
    let done = tokio::time::timeout(DEADLINE, rig.client.wait_for(&urgent)).await??;
    ensure!(done.state() == ExecutionState::Succeeded, "{done:?}");
    for id in &claimed[2..] {
        let execution = rig.client.get(id).await?;
        let returned = execution.attempts.first().context("an attempt")?;
        let is_returned = returned.result() == AttemptResult::Returned;
        ensure!(is_returned && !ran(returned), "{execution:?}");
    }
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_before_it_begins_at_its_worker_never_begins() -> Result<()> {
    let rig = Rig::start(two_slots).await?;
    let claimed = more_than_slots(&rig, 2).await?;
    // A slot that comes free is for the next one: so the last one goes first.
    for id in claimed.iter().rev() {
        rig.client.cancel(id).await?;
    }
    // Its answer is the worker's: without one the scheduler would wait for 20 s.
    let over = try_join_all(claimed.iter().map(|id| rig.client.wait_for(id)));
    let over = tokio::time::timeout(DEADLINE / 2, over).await??;
    for (place, execution) in over.into_iter().enumerate() {
        ensure!(
            execution.state() == ExecutionState::Cancelled,
            "{execution:?}"
        );
        let began = execution.attempts.iter().filter(|one| ran(one)).count();
        ensure!(began == usize::from(place < 2), "{execution:?}");
    }
    rig.stop().await
}
