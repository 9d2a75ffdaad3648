//! A network between a scheduler and the database that loses everything for a while, without a word, and
//! leaves the connections open: what they were used for is given up, and they hold nobody up for ever.

use std::env;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use chaos::{Network, Proxy, Trouble};
use cluster::{ExtraEnv, Service};
use e2e::{Rig, submission, until};
use futures::future::join_all;
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use tokio::time::sleep;

/// Connections for reads, of each kind.
const POOL: usize = 4;
/// Longer than a statement is waited for.
const SILENCE: Duration = Duration::from_secs(15);
const WELL_AGAIN_WITHIN: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread")]
async fn reads_come_back_after_a_silence_that_outlived_their_connections() -> Result<()> {
    let server = env::var("DATABASE_URL").context("run `make test`")?;
    let server = PgConnectOptions::from_str(&server)?;
    let address = format!("{}:{}", server.get_host(), server.get_port());
    let proxy = Proxy::over(Network::default()).await?;
    proxy.lead_to(address.parse()?);
    let rig = Rig::start(|options| {
        options.schedulers = 1;
        let direct = options.database_url.clone().unwrap_or_default();
        let through = direct.replace(&address, &proxy.address().to_string());
        for (name, value) in [
            ("DATABASE_URL", through),
            ("DATABASE_POOL", POOL.to_string()),
        ] {
            options.env.push(ExtraEnv {
                service: Service::Scheduler,
                name: name.to_owned(),
                value,
            });
        }
    })
    .await?;
    let id = rig.client.submit(submission("noop", &json!({}))).await?;
    rig.client.wait_for(&id).await?;
    let reads = || join_all((0..POOL * 4).map(|_| rig.client.get(&id)));
    reads().await;
    proxy.wire().turn(Trouble::Blackhole);
    tokio::join!(reads(), sleep(SILENCE));
    proxy.wire().turn(Trouble::None);
    until("all reads are answered", WELL_AGAIN_WITHIN, async || {
        Ok(reads().await.iter().all(Result::is_ok))
    })
    .await?;
    rig.stop().await
}
