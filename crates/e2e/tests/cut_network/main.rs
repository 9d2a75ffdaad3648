//! The network between schedulers and the database is cut in the middle of commits, again and again:
//! before they arrive, while they are under way, and after they were answered. What was acknowledged is
//! there once and ends once, whatever became of the commit that it was in.

mod callers;
mod cuts;
#[path = "../lanes/mod.rs"]
mod lanes;

use std::collections::HashMap;
use std::env;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos::Proxy;
use cluster::{ExtraEnv, Service};
use e2e::{Rig, count_events, until};
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::postgres::PgConnectOptions;
use tokio::time::sleep;

use callers::{Callers, Told, parsed};
use cuts::{Cut, Cuts};

/// One commit of so many is cut.
const EVERY: usize = 10;
/// How many cuts of each kind have to hit a commit.
const HITS: usize = 30;
const HITS_WITHIN: Duration = Duration::from_secs(60);
/// Longer than the leases of lanes last.
const STALL: Duration = Duration::from_secs(7);
const ENDED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_network_cuts_is_found_out_whichever_way_it_went() -> Result<()> {
    let (proxy, rig) = start().await?;
    let callers = Callers::start(&rig);
    proxy.wire().cut_every(EVERY);
    until("enough commits are cut", HITS_WITHIN, async || {
        let enough = |cut| proxy.wire().hits(cut) >= HITS;
        let silent = proxy.wire().hits(Cut::SilentBefore) + proxy.wire().hits(Cut::SilentAfter) > 0;
        Ok(enough(Cut::Before) && enough(Cut::Amid) && enough(Cut::After) && silent)
    })
    .await?;
    proxy.wire().cut_every(0);
    // Nothing is lost, but all comes later than the leases last.
    proxy.wire().stall(true);
    sleep(STALL).await;
    proxy.wire().stall(false);
    let told = callers.finish().await?;
    let doubts = count_events(&rig.cluster, Service::Scheduler, "commit_in_doubt")?;
    let hits: Vec<_> = Cut::ALL.map(|cut| (cut, proxy.wire().hits(cut))).into();
    println!(
        "cuts that hit: {hits:?}; commits in doubt: {doubts}; acknowledged: {}, refused: {}, \
         in doubt: {}, tried again by key: {}",
        told.taken.len(),
        told.refused.len(),
        told.in_doubt.len(),
        told.tried_again
    );
    ensure!(doubts >= 2 * HITS, "only {doubts} commits were in doubt");

    until("everything ends", ENDED_WITHIN, async || {
        let (unended, twice) = rig.ledger.unended_and_ended_twice().await?;
        ensure!(twice == 0, "{twice} executions ended twice");
        Ok(unended == 0)
    })
    .await?;
    everything_is_there_as_it_was_told(&rig, &told).await?;
    keys_still_name_the_same(&rig, &told).await?;
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}

/// A cluster whose schedulers reach the database through the proxy alone.
async fn start() -> Result<(Proxy<Cuts>, Rig)> {
    let server = env::var("DATABASE_URL").context("run `make test`")?;
    let server = PgConnectOptions::from_str(&server)?;
    let address = format!("{}:{}", server.get_host(), server.get_port());
    let proxy = Proxy::over(Cuts::default()).await?;
    proxy.lead_to(address.parse()?);
    let through = proxy.address().to_string();
    let rig = Rig::start(|options| {
        options.worker_slots = 32;
        let direct = options.database_url.clone().unwrap_or_default();
        options.env.push(ExtraEnv {
            service: Service::Scheduler,
            name: "DATABASE_URL".to_owned(),
            value: direct.replace(&address, &through),
        });
    })
    .await?;
    Ok((proxy, rig))
}

/// By the rows: what was acknowledged is there once, under the id that was told; what was refused is not
/// there; what was in doubt is there at most once.
async fn everything_is_there_as_it_was_told(rig: &Rig, told: &Told) -> Result<()> {
    let rows: Vec<(String, i16, i64)> =
        sqlx::query_as("select correlation_id, lane, seq from execution")
            .fetch_all(rig.ledger.pool())
            .await?;
    let mut there: HashMap<&str, Vec<(i16, i64)>> = HashMap::new();
    for (name, lane, seq) in &rows {
        there.entry(name).or_default().push((*lane, *seq));
    }
    for (name, id) in &told.taken {
        let place = (i16::try_from(id.lane().0)?, i64::try_from(id.seq())?);
        let found = there.get(name.as_str());
        ensure!(
            found == Some(&vec![place]),
            "{name} is {id} at {place:?}, but its rows are {found:?}"
        );
    }
    let count = |name: &String| there.get(name.as_str()).map_or(0, Vec::len);
    for name in &told.refused {
        ensure!(count(name) == 0, "{name} was said not to have been taken");
    }
    let mut kept = 0;
    for name in &told.in_doubt {
        let found = count(name);
        ensure!(found <= 1, "{name} was in doubt and is there {found} times");
        kept += found;
    }
    println!("of {} in doubt {kept} are there", told.in_doubt.len());
    ensure!(
        rows.len() == told.taken.len() + kept,
        "{} executions, {} acknowledged and {kept} in doubt",
        rows.len(),
        told.taken.len()
    );
    Ok(())
}

async fn keys_still_name_the_same(rig: &Rig, told: &Told) -> Result<()> {
    let again = told.keyed.iter().map(async |(name, piece)| {
        let answer = rig.client.hand_in(piece.clone()).await?;
        let id = parsed(&answer.execution_id)?;
        ensure!(
            answer.duplicate && told.taken.get(name) == Some(&id),
            "{name}: {answer:?}, not {:?}",
            told.taken.get(name)
        );
        Ok(())
    });
    stream::iter(again)
        .buffer_unordered(64)
        .try_collect::<()>()
        .await
}
