//! A process joins the cluster that was given other settings than the rest, or somebody's name.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::{Launch, Member, Service};
use e2e::{Rig, events, submission, until, until_logged};
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);
const NAME: &str = "stranger";

/// Gateways and peers would be refused by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_with_another_token_takes_no_lanes_and_says_why() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let stranger = stranger(&rig, &[("SERVICE_TOKEN", "not-the-token-of-the-others")]).await?;
    until_logged(&stranger, ("service_token_refused", 0), SOON).await?;
    until("its health tells why it isn't ready", SOON, async || {
        let ready = health(&stranger, "ready").await?;
        let status = health(&stranger, "status").await?;
        Ok(ready.0 == 503 && status.1.contains("SERVICE_TOKEN"))
    })
    .await?;
    let id = rig
        .client
        .submit(submission("sleep", &json!({"ms": 1})))
        .await?;
    rig.client.wait_for(&id).await?;
    let lanes: i64 = sqlx::query_scalar("select count(*) from lane_lease where holder = $1")
        .bind(NAME)
        .fetch_one(rig.ledger.pool())
        .await?;
    ensure!(lanes == 0, "it took {lanes} lanes");
    let told = events(&stranger, "service_token_refused")?.len();
    ensure!(told == 1, "it said so {told} times");
    stranger.terminate(SOON).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_with_another_seed_or_number_of_lanes_says_so() -> Result<()> {
    let rig = Rig::start(|_| {}).await?;
    let seed = rig.cluster.dir().join("other-seed.yaml");
    let yaml = "tenants: [{name: demo, max_depth: 7, queues: [{name: checks, strict: true}]}]";
    fs::write(&seed, yaml)?;
    let seed = seed.display().to_string();
    let token = rig.cluster.service_token();
    let settings = [
        ("SERVICE_TOKEN", token),
        ("LANES", "5"),
        ("SEED_FILE", &*seed),
    ];
    let stranger = stranger(&rig, &settings).await?;
    let lanes = events(&stranger, "lanes_differ")?;
    ensure!(
        lanes.len() == 1 && lanes[0]["context"]["lanes"] == 5,
        "{lanes:?}"
    );
    let seeds = events(&stranger, "seed_differs")?;
    let differences = &seeds.first().context("it says so")?["context"]["differences"];
    let expected = "tenant demo: max_depth; queue demo/checks: strict";
    ensure!(seeds.len() == 1 && differences == expected, "{seeds:?}");
    for member in rig.cluster.members() {
        for event in ["lanes_differ", "seed_differs"] {
            let said = events(&member, event)?;
            ensure!(said.is_empty(), "{}: {said:?}", member.instance());
        }
    }
    stranger.terminate(SOON).await?;
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_one_name_are_told_of_and_both_work() -> Result<()> {
    let rig = Rig::start(|options| options.workers = 1).await?;
    let schedulers = rig.cluster.urls(Service::Scheduler).join(",");
    let settings = [
        ("WORKER_ID", "worker-1"),
        ("WORKER_KEY", rig.cluster.worker_key()),
        ("SCHEDULERS", &*schedulers),
        ("SLOTS", "4"),
    ];
    let namesake = join(&rig, Service::Worker, &settings).await?;
    for scheduler in rig.cluster.members() {
        if scheduler.service() == Service::Scheduler {
            until_logged(&scheduler, ("worker_id_shared", 0), SOON).await?;
            let told = events(&scheduler, "worker_id_shared")?;
            let context = &told[0]["context"];
            let named = [&context["address"], &context["other_address"]];
            ensure!(
                named
                    .iter()
                    .all(|it| it.as_str().is_some_and(|it| it.contains(':'))),
                "{told:?}"
            );
        }
    }
    let work = (0..200).map(|_| submission("sleep", &json!({"ms": 5})));
    for id in rig.client.submit_batch(work.collect()).await? {
        let id = id.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let done = rig.client.wait_for(&id).await?;
        ensure!(done.attempts.len() == 1, "{done:?}");
    }
    namesake.terminate(SOON).await?;
    rig.stop().await
}

/// One more scheduler of the same database, with settings of its own.
async fn stranger(rig: &Rig, settings: &[(&str, &str)]) -> Result<Member> {
    let own = [
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("DATABASE_URL", rig.cluster.database_url()),
        ("LANE_LEASE", "5s"),
    ];
    let settings = [&own[..], settings].concat();
    join(rig, Service::Scheduler, &settings).await
}

/// One more process.
async fn join(rig: &Rig, service: Service, settings: &[(&str, &str)]) -> Result<Member> {
    let own = std::env::current_exe()?;
    // Tests lie one folder deeper than binaries.
    let folder = own.parent().and_then(|folder| folder.parent());
    let folder: PathBuf = folder.context("tests are below target")?.to_owned();
    let common = [
        ("INSTANCE_ID", NAME),
        ("METRICS_ADDR", "127.0.0.1:0"),
        ("LOG_FORMAT", "json"),
    ];
    let env = common.iter().chain(settings);
    let env = env.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let binary = match service {
        Service::Worker => "worker",
        _ => "scheduler",
    };
    Member::start(Launch {
        service,
        instance: NAME.to_owned(),
        binary: folder.join(binary),
        env: env.collect(),
        log: rig.cluster.dir().join("logs").join(format!("{NAME}.log")),
        deadline: SOON,
    })
    .await
}

async fn health(member: &Member, of: &str) -> Result<(u16, String)> {
    let url = format!("http://{}/health/{of}", member.admin_address());
    let answer = reqwest::get(url).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}
