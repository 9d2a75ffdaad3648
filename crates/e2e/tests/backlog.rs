//! More waits than memory may hold: what is beyond that waits in its table, and comes in its turn.

mod lanes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::{ExtraEnv, Options, Queue, Service};
use domain::LaneId;
use e2e::{Rig, hand_in, submission};
use futures::{StreamExt, TryStreamExt, stream};
use proto::v1::{ExecutionState, ListExecutionsRequest, Submission};
use serde_json::json;
use store::{Database, Writer};
use tokio::time::sleep;

const QUEUES: [&str; 4] = ["north", "east", "south", "west"];
/// Of one queue.
const EXECUTIONS: usize = 5_000;
/// Handed in together.
const BATCH: usize = 10;
/// Runs that a scheduler keeps in memory: each batch is one.
const IN_MEMORY: usize = 100;
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn what_memory_has_no_room_for_is_done_once_in_order_and_survives_a_kill() -> Result<()> {
    let rig = Rig::start(little_memory).await?;
    for worker in ["worker-1", "worker-2"] {
        rig.cluster.kill(worker)?;
    }
    let mut ids = fill(&rig).await?;
    let stored = stored(&rig).await?;
    println!("{stored} wait in their table alone");
    let runs = 2 * IN_MEMORY + QUEUES.len() * IN_MEMORY / 4;
    let known = (runs * BATCH) as u64;
    ensure!(stored > (QUEUES.len() * EXECUTIONS) as u64 - known);
    cancelled_and_listed(&rig, &mut ids).await?;

    for worker in ["worker-1", "worker-2"] {
        rig.cluster.restart(worker).await?;
    }
    ended(&rig, 4_000).await?;
    rig.cluster.kill("scheduler-1")?;
    rig.cluster.restart("scheduler-1").await?;
    ended(&rig, (QUEUES.len() * EXECUTIONS) as i64).await?;
    let (unended, twice) = rig.ledger.unended_and_ended_twice().await?;
    ensure!((unended, twice) == (0, 0), "{unended} open, {twice} twice");
    ensure!(out_of_order(&rig).await? == 0);
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

fn little_memory(options: &mut Options) {
    options.worker_slots = 32;
    let queues = QUEUES.map(|name| Queue::new(name, 1));
    options.tenants[0].queues.extend(queues);
    options.env.push(ExtraEnv {
        service: Service::Scheduler,
        name: "WAITING_IN_MEMORY".to_owned(),
        value: IN_MEMORY.to_string(),
    });
}

/// Hands everything in; gives the ids of the first queue.
async fn fill(rig: &Rig) -> Result<Vec<String>> {
    let one = |queue: &str| Submission {
        queue: queue.to_owned(),
        ..submission("noop", &json!({}))
    };
    let batches = (0..EXECUTIONS / BATCH).flat_map(|_| QUEUES);
    let calls = batches.map(async |queue| {
        let handed_in = hand_in(&rig.client, vec![one(queue); BATCH]).await?;
        Ok::<_, anyhow::Error>(handed_in.into_iter().map(move |one| (queue, one.id)))
    });
    let all: Vec<_> = stream::iter(calls)
        .buffer_unordered(16)
        .try_collect()
        .await?;
    let first = all
        .into_iter()
        .flatten()
        .filter(|(queue, _)| *queue == QUEUES[0]);
    Ok(first.map(|(_, id)| id).collect())
}

/// How many wait in their table alone by the lanes' chains.
async fn stored(rig: &Rig) -> Result<u64> {
    let url = rig.cluster.database_url();
    let database = Database::connect(url, 1, Arc::new(|_, _, _| {})).await?;
    let mut reader = Writer::new(database);
    let mut stored = 0;
    for lane in (0..u16::try_from(rig.ledger.lanes().await?)?).map(LaneId) {
        stored += reader.replay(lane).await?.waiting().stored_count();
    }
    Ok(stored)
}

/// What waits in its table can be cancelled, once, and is in lists like everything else that waits.
async fn cancelled_and_listed(rig: &Rig, ids: &mut Vec<String>) -> Result<()> {
    let mut cancelled = ids.split_off(ids.len() - 20);
    cancelled.extend(ids.drain(2_000..2_020));
    for id in &cancelled {
        ensure!(rig.client.get(id).await?.state() == ExecutionState::Queued);
        let state = rig.client.cancel(id).await?;
        ensure!(state == ExecutionState::Cancelled, "{state:?}");
        ensure!(rig.client.cancel(id).await? == ExecutionState::Cancelled);
        ensure!(rig.client.get(id).await?.state() == ExecutionState::Cancelled);
    }
    let mut list = ListExecutionsRequest {
        queue: QUEUES[0].to_owned(),
        states: vec![ExecutionState::Queued.into()],
        page_size: 500,
        ..ListExecutionsRequest::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = rig.client.list(list.clone()).await?;
        listed.extend(page.executions.into_iter().map(|one| one.execution_id));
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
    }
    let distinct: BTreeSet<&String> = listed.iter().collect();
    ensure!(distinct.len() == listed.len(), "some are listed twice");
    ensure!(
        distinct == ids.iter().collect(),
        "{} are listed",
        listed.len()
    );
    Ok(())
}

/// Waits until so many have come to their end.
async fn ended(rig: &Rig, count: i64) -> Result<()> {
    const ENDED: &str = "select count(*) from outcome where state in (6, 9)";
    let begin = Instant::now();
    loop {
        let ended: i64 = sqlx::query_scalar(ENDED)
            .fetch_one(rig.ledger.pool())
            .await?;
        if ended >= count {
            println!("{ended} have ended after {:?}", begin.elapsed());
            return Ok(());
        }
        ensure!(begin.elapsed() < DEADLINE, "{ended} of {count} have ended");
        sleep(Duration::from_millis(20)).await;
    }
}

/// How many were claimed for the first time before one of their line that was accepted earlier.
async fn out_of_order(rig: &Rig) -> Result<i64> {
    const BACK: &str = "with first as (
             select e.lane, e.queue, e.seq, min(o.fence) as fence
             from execution e join outcome o using (lane, seq) where o.state <> 9
             group by e.lane, e.queue, e.seq
         ), steps as (
             select fence < lag(fence) over (partition by lane, queue order by seq) as back from first
         )
         select count(*) from steps where back";
    Ok(sqlx::query_scalar(BACK)
        .fetch_one(rig.ledger.pool())
        .await?)
}
