//! The leader goes: its own lanes and timers go on after a lease, those of others never pause. `TRIES=30` kills it
//! so often, and says how long each took.

mod pulse;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::Queue;
use e2e::{Rig, until};
use pulse::{Gaps, Pulse};

const SCHEDULERS: usize = 3;
const LANES: u16 = 16;
/// So many that every lane has some of them, whatever their names come to.
const QUEUES: usize = 64;
/// The lease of production, and what taking over may take beyond it.
const LANE_LEASE: Duration = Duration::from_secs(8);
const RESUMED_WITHIN: Duration = Duration::from_secs(12);
/// How long a pause on a busy machine may be, told from one that waits for a lease.
const NO_PAUSE: Duration = Duration::from_secs(4);
/// The same where nobody waits for a lease, since the lanes were handed over.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(40);

fn tries() -> u32 {
    let tries = std::env::var("TRIES").ok();
    tries.and_then(|tries| tries.parse().ok()).unwrap_or(1)
}

/// The leader and the lanes that it owns, once there is one and every scheduler has its part of the lanes.
async fn leader(rig: &Rig) -> Result<(String, BTreeSet<u32>)> {
    const LEADER: &str =
        "select holder_label from leader_lease where expires_at > clock_timestamp()";
    const OWNED: &str = "select holder, array_agg(lane::int4) from lane_lease
        where expires_at > clock_timestamp() group by holder";
    let mut found = None;
    until("a leader, and lanes in balance", DEADLINE, async || {
        let pool = rig.ledger.pool();
        let leader: Option<String> = sqlx::query_scalar(LEADER).fetch_optional(pool).await?;
        let owned: Vec<(String, Vec<i32>)> = sqlx::query_as(OWNED).fetch_all(pool).await?;
        let most = usize::from(LANES).div_ceil(SCHEDULERS);
        let balanced = owned.len() == SCHEDULERS && owned.iter().all(|(_, it)| it.len() <= most);
        let lanes = owned
            .into_iter()
            .find(|(holder, _)| Some(holder) == leader.as_ref());
        found = leader.zip(lanes).filter(|_| balanced);
        Ok(found.is_some())
    })
    .await?;
    let (leader, (_, lanes)) = found.context("until says so")?;
    Ok((
        leader,
        lanes.iter().map(|lane| lane.unsigned_abs()).collect(),
    ))
}

/// How long the lanes paused around what was done to the leader.
async fn pauses(
    rig: &Rig,
    pulse: &Pulse,
    done_to_leader: impl AsyncFnOnce(&str) -> Result<()>,
) -> Result<Gaps> {
    let (leader, own) = leader(rig).await?;
    pulse.until_in_every_lane(Instant::now(), DEADLINE).await?;
    let at = Instant::now();
    done_to_leader(&leader).await?;
    // Long enough that every pause is over by then, and has two ends.
    pulse
        .until_in_every_lane(at + LANE_LEASE / 2, DEADLINE)
        .await?;
    let gaps = pulse.gaps(at, &own);
    rig.cluster.restart(&leader).await?;
    Ok(gaps)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_lanes_go_on_after_its_lease_and_the_others_never_pause() -> Result<()> {
    let rig = Rig::start(|options| {
        options.schedulers = SCHEDULERS;
        options.lanes = LANES;
        options.lane_lease = LANE_LEASE;
        options.worker_slots = 100;
        let queue = |number| Queue::new(format!("queue-{number}"), 1);
        options.tenants[0].queues = (0..QUEUES).map(queue).collect();
    })
    .await?;
    let pulse = Pulse::of(&rig.client, QUEUES, LANES);
    pulse.until_in_every_lane(Instant::now(), DEADLINE).await?;
    for number in 1..=tries() {
        let killed = pauses(&rig, &pulse, async |leader| rig.cluster.kill(leader)).await?;
        println!("kill {number}: {killed}");
        ensure!(killed.own < RESUMED_WITHIN, "{killed}");
        ensure!(killed.others < NO_PAUSE, "{killed}");
        let terminated = pauses(&rig, &pulse, async |leader| {
            let ended = rig.cluster.member(leader)?.terminate(DEADLINE).await?;
            ensure!(ended.success(), "{ended}");
            Ok(())
        });
        let terminated = terminated.await?;
        println!("SIGTERM {number}: {terminated}");
        ensure!(terminated.own < HANDED_OVER_WITHIN, "{terminated}");
        ensure!(terminated.others < NO_PAUSE, "{terminated}");
    }
    pulse.stop();
    rig.stop().await
}
