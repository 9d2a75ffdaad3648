//! Idempotency keys at a window's border, which is a moment like any other: whoever races about a key
//! there, from whichever side, it names one execution.

mod border;
#[path = "../lanes/mod.rs"]
mod lanes;
mod ways;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Rig, until};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use border::{Border, Crossing, somebody_waits};
use ways::{Told, Ways, keyed};

/// How long before the border a round begins, in seconds: time enough for a key to be written.
const AHEAD: f64 = 1.5;
const ROUNDS: usize = 3;
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// Two clusters at a time would only slow each other down.
static ONE_AFTER_THE_OTHER: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_submissions_of_a_key_on_both_sides_of_a_border_are_one_execution() -> Result<()>
{
    let _alone = ONE_AFTER_THE_OTHER.lock().await;
    let rig = Rig::start(|options| options.gateways = 2).await?;
    let (border, ways) = (Border::of(&rig).await?, Ways::into(&rig).await?);
    for round in 0..ROUNDS {
        let key = format!("round-{round}");
        let crossing = border.come_in(AHEAD).await?;
        let mut racing = ways.race(&key, 50);
        crossing.a_key_is_written_before().await?;
        crossing.is_crossed().await?;
        racing.extend(ways.race(&key, 50));
        one_is_new(&key, all(racing).await?)?;
    }
    stored(&rig, ROUNDS).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_before_a_border_is_known_just_before_it_just_after_it_and_later() -> Result<()>
{
    let _alone = ONE_AFTER_THE_OTHER.lock().await;
    let rig = Rig::start(|options| options.gateways = 2).await?;
    let (border, ways) = (Border::of(&rig).await?, Ways::into(&rig).await?);
    // Where the border is when the key comes again, in seconds from then.
    let again = [
        ("hour", 3_600.0),
        ("just-before", 30.0),
        ("just-after", -30.0),
        ("later", -90.0),
    ];
    border.put(3_600.0).await?;
    let mut first = Vec::new();
    for (key, _) in again {
        first.push(all(ways.race(key, 1)).await?.pop().context("one answer")?);
    }
    for ((key, seconds), (id, _)) in again.into_iter().zip(first) {
        border.put(seconds).await?;
        for (named, duplicate) in all(ways.race(key, 100)).await? {
            ensure!(
                duplicate && named == id,
                "{key} named {id}, and {seconds} s from the border {named}"
            );
        }
    }
    stored(&rig, again.len()).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_execution_when_sql_and_a_gateway_race_across_a_border() -> Result<()> {
    let _alone = ONE_AFTER_THE_OTHER.lock().await;
    let rig = Rig::start(|options| options.gateways = 2).await?;
    let (border, ways) = (Border::of(&rig).await?, Ways::into(&rig).await?);

    let committed = sql_first(&rig, (&border, &ways), true).await?;
    ensure!(
        committed.iter().all(|(_, duplicate)| *duplicate),
        "{committed:?}"
    );
    let rolled_back = sql_first(&rig, (&border, &ways), false).await?;
    one_is_new("rolled-back", rolled_back)?;

    let crossing = border.come_in(AHEAD).await?;
    let racing = ways.race("gateway-first", 2);
    crossing.a_key_is_written_before().await?;
    crossing.is_crossed().await?;
    let mut connection = PgConnection::connect(rig.cluster.database_url()).await?;
    let by_sql = submit_by_sql(&mut connection, "gateway-first").await?;
    let mut answers = all(racing).await?;
    answers.push(by_sql);
    one_is_new("gateway-first", answers)?;
    stored(&rig, 3).await?;
    rig.stop().await
}

/// SQL takes a key before the border, in a transaction that lasts across it; gateways and lanes submit it
/// behind the border meanwhile. What these were told, and SQL if it committed.
async fn sql_first(
    rig: &Rig,
    (border, ways): (&Border<'_>, &Ways),
    commits: bool,
) -> Result<Vec<Told>> {
    let key = format!("sql-first-{commits}");
    let mut connection = PgConnection::connect(rig.cluster.database_url()).await?;
    let crossing: Crossing<'_> = border.come_in(AHEAD).await?;
    let mut transaction = connection.begin().await?;
    let by_sql = submit_by_sql(&mut transaction, &key).await?;
    crossing.is_crossed().await?;
    let racing = ways.race(&key, 20);
    somebody_waits(rig).await?;
    if !commits {
        transaction.rollback().await?;
        return all(racing).await;
    }
    transaction.commit().await?;
    let answers = all(racing).await?;
    let different: Vec<_> = answers.iter().filter(|(id, _)| *id != by_sql.0).collect();
    ensure!(
        different.is_empty(),
        "{key} is {by_sql:?}, and {different:?}"
    );
    Ok(answers)
}

async fn submit_by_sql(connection: &mut PgConnection, key: &str) -> Result<Told> {
    let submission = keyed(key);
    let sql = format!(
        "select execution_id::text, duplicate from watchwork.submit('demo', 'noop', '{}',
             content_type => '{}', idempotency_key => '{key}')",
        String::from_utf8_lossy(&submission.payload),
        submission.content_type
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await?)
}

async fn all(racing: Vec<JoinHandle<Result<Told>>>) -> Result<Vec<Told>> {
    let mut told = Vec::new();
    for one in racing {
        told.push(one.await??);
    }
    Ok(told)
}

fn one_is_new(key: &str, told: Vec<Told>) -> Result<()> {
    let ids: BTreeSet<&str> = told.iter().map(|(id, _)| id.as_str()).collect();
    ensure!(ids.len() == 1, "{key} names {ids:?}");
    let new = told.iter().filter(|(_, duplicate)| !duplicate).count();
    ensure!(
        new == 1,
        "{new} of {} were told that theirs is new",
        told.len()
    );
    Ok(())
}

/// There are so many executions, and all end.
async fn stored(rig: &Rig, wanted: usize) -> Result<()> {
    let stored: i64 = sqlx::query_scalar("select count(*) from execution")
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(
        usize::try_from(stored)? == wanted,
        "{stored} executions of {wanted} keys"
    );
    until("all end", ENDED_WITHIN, async || {
        Ok(rig.ledger.unended_and_ended_twice().await? == (0, 0))
    })
    .await?;
    lanes::assert_all_is_done(rig).await
}
