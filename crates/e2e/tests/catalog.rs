//! What PostgreSQL itself says about the hot tables.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::{ExtraEnv, Service};
use e2e::{Rig, Tracker, hand_in, retry_policy, submission, until};
use proto::v1::Submission;
use serde_json::json;
use tokio::time::sleep;

const HOT: [&str; 5] = ["chain", "execution", "outcome", "due", "checkpoint"];
/// Servers tell their statistics a moment later.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn hot_tables_are_only_inserted_into_also_by_retries_and_a_take_over() -> Result<()> {
    let rig = Rig::start(|options| {
        options.env.push(ExtraEnv {
            service: Service::Scheduler,
            name: "DUE_HORIZON".to_owned(),
            value: "1s".to_owned(),
        });
    })
    .await?;
    let tracker = Tracker::new(rig.client.clone());
    tracker.follow(&hand_in(&rig.client, work(600)).await?);
    rig.cluster.kill("scheduler-1")?;
    tracker.follow(&hand_in(&rig.client, work(200)).await?);
    tracker.until_all_ended(Duration::from_secs(40)).await?;
    // What was handed in may all have gone to the lanes of the other.
    let lanes = rig.ledger.lanes().await?;
    let all_taken = async || Ok(rig.ledger.lanes_of("scheduler-2").await?.len() == lanes);
    until("scheduler-2 owns all lanes", TAKEN_WITHIN, all_taken).await?;

    for table in HOT {
        let written = written(&rig, table).await?;
        ensure!(
            written > 0,
            "nothing went through {table}: the load is no test of it"
        );
    }
    let unattached: Vec<String> = sqlx::query_scalar(UNATTACHED)
        .fetch_all(rig.ledger.pool())
        .await?;
    ensure!(
        unattached.is_empty(),
        "windows whose leaf is not attached: {unattached:?}"
    );
    rig.stop().await
}

/// A few of each kind; some are retried later than due entries are read ahead.
fn work(count: usize) -> Vec<Submission> {
    let retried = |backoff| Submission {
        retry_policy: Some(retry_policy(3, Duration::from_millis(backoff))),
        ..submission("fail", &json!({"times": 1}))
    };
    let one = |number: usize| match number % 10 {
        0 => retried(200),
        1 => retried(2_500),
        2 | 3 => submission("sleep", &json!({"ms": 50})),
        4 => submission("count", &json!({"n": 4, "every": 2})),
        _ => submission("noop", &json!({})),
    };
    (0..count).map(one).collect()
}

/// How many rows went into a table's leaves; an error if any was ever updated or deleted.
async fn written(rig: &Rig, table: &str) -> Result<i64> {
    const STATISTICS: &str = "select coalesce(sum(n_tup_ins), 0)::int8,
             coalesce(sum(n_tup_upd + n_tup_del), 0)::int8
         from pg_stat_user_tables
         where relid in (select inhrelid from pg_inherits where inhparent = $1::regclass)";
    let pool = rig.ledger.pool();
    // The tables' names are ours.
    let rows: i64 = sqlx::query_scalar(match table {
        "chain" => "select count(*) from chain",
        "execution" => "select count(*) from execution",
        "outcome" => "select count(*) from outcome",
        "checkpoint" => "select count(*) from checkpoint",
        _ => "select count(*) from due",
    })
    .fetch_one(pool)
    .await?;
    let begin = Instant::now();
    loop {
        let (inserted, changed): (i64, i64) = sqlx::query_as(STATISTICS)
            .bind(table)
            .fetch_one(pool)
            .await?;
        ensure!(
            changed == 0,
            "{changed} rows of {table} were updated or deleted"
        );
        if inserted >= rows {
            return Ok(rows);
        }
        ensure!(
            begin.elapsed() < TOLD_WITHIN,
            "{table} has {rows} rows, but statistics know of {inserted}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

const UNATTACHED: &str = r#"select table_name || ' from ' || from_hour from "window"
     where not exists (
         select from pg_inherits
         where inhrelid = to_regclass(leaf) and inhparent = to_regclass(table_name)
             and not inhdetachpending)"#;
