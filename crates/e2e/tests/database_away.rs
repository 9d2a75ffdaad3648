//! A database that is away for long, and one that would lose what it has acknowledged. `AWAY=300` makes it five
//! minutes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::testing::fresh_database;
use cluster::{Cluster, ExtraEnv, Options, Service};
use e2e::{Rig, hand_in_each, submission};
use proto::v1::ExecutionState;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic_types::StatusExt as _;

const BEFORE: usize = 40;
/// How long a caller waits at most for a refusal.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);
const BACK_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(500);

fn away() -> Duration {
    let seconds = std::env::var("AWAY").ok().and_then(|it| it.parse().ok());
    Duration::from_secs(seconds.unwrap_or(12))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_away_callers_are_told_when_to_try_again_and_no_process_ends() -> Result<()> {
    let rig = Rig::start(|options| options.database_url = None).await?;
    let postgres = rig.cluster.postgres().context("a server of its own")?;
    let sleeps = vec![submission("sleep", &json!({"ms": 3_000})); BEFORE];
    let ids = rig.client.submit_batch(sleeps).await?;
    let ids: Vec<String> = ids.into_iter().flatten().collect();
    ensure!(ids.len() == BEFORE);
    postgres.kill()?;
    let since = Instant::now();
    let mut refusals = 0;
    while since.elapsed() < away() {
        let refused = timeout(
            REFUSED_WITHIN,
            rig.client.submit(submission("noop", &json!({}))),
        );
        let Err(status) = refused.await.context("no answer")? else {
            bail!("taken without a database");
        };
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        // What may have been taken says so, and not when to try again.
        let in_doubt = status.message().contains("may or may not");
        let retry = status
            .get_details_retry_info()
            .and_then(|it| it.retry_delay);
        ensure!(in_doubt || retry.is_some(), "{status:?}");
        refusals += 1;
        for member in rig.cluster.members() {
            ensure!(member.alive(), "{} ended", member.instance());
        }
        sleep(LOOK).await;
    }
    postgres.restart()?;
    let back = Instant::now();
    let works = async {
        let work = hand_in_each(&rig.client, vec![submission("noop", &json!({}))]).await?;
        for id in ids.iter().chain(work.iter().map(|it| &it.id)) {
            let execution = rig.client.wait_for(id).await?;
            ensure!(
                execution.state() == ExecutionState::Succeeded,
                "{execution:?}"
            );
        }
        anyhow::Ok(())
    };
    timeout(BACK_WITHIN, works)
        .await
        .context("it doesn't work again")??;
    println!(
        "{refusals} refusals; all done {:.1?} after it was back",
        back.elapsed()
    );
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_may_lose_what_it_acknowledged_is_refused_unless_told() -> Result<()> {
    let database = fresh_database().await;
    let mut connection = PgConnection::connect(database.url()).await?;
    let off = "do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$";
    connection.execute(off).await?;
    let start = async |allowed: &str| {
        let dir = tempfile::tempdir()?;
        let mut options = Options::new(dir.path());
        options.database_url = Some(database.url().to_owned());
        options.receiver = false;
        options.env = vec![ExtraEnv {
            service: Service::Scheduler,
            name: "ALLOW_UNSAFE_DATABASE".to_owned(),
            value: allowed.to_owned(),
        }];
        Cluster::start(options).await
    };
    let Err(refused) = start("false").await else {
        bail!("it was taken")
    };
    let said = format!("{refused:#}");
    ensure!(
        said.contains("synchronous_commit=off") && said.contains("ALLOW_UNSAFE_DATABASE"),
        "{said}"
    );
    start("true").await?.stop().await
}
