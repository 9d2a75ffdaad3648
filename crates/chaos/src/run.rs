//! A whole run: up, load and damage, quiet, down, and the account of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::time::{Instant, sleep};

use crate::checker::check;
use crate::faults::Saboteur;
use crate::history::History;
use crate::journal;
use crate::load::{Clients, Pace};
use crate::plan::{Counts, Fleet, plan};
use crate::report::Account;
use crate::site::{self, Site, calls_log};
use crate::tables::Tables;

/// What is delayed, retried and taken back must have come to its end by then.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(250);

/// Brings up real processes, hands work in while they are killed, stopped and cut off, and checks that
/// all promises were kept. The first violation of one makes it fail.
#[derive(Parser, Clone, Debug)]
#[command(name = "chaos", version)]
pub struct Args {
    /// How many executions.
    #[arg(long, default_value_t = 2_000)]
    pub executions: usize,

    /// How long they are handed in, and damage is done.
    #[arg(long, default_value = "40s", value_parser = humantime::parse_duration)]
    pub load: Duration,

    /// `kill -9`s of each service.
    #[arg(long, default_value_t = 2)]
    pub kills: usize,

    /// Restarts of the database, each second one a crash.
    #[arg(long, default_value_t = 2)]
    pub restarts: usize,

    /// Pauses (SIGSTOP) of workers and of schedulers, so many of each; of gateways half as many.
    #[arg(long, default_value_t = 2)]
    pub pauses: usize,

    /// SIGTERMs of each service.
    #[arg(long, default_value_t = 1)]
    pub terminations: usize,

    /// Faults of the network of each of five kinds.
    #[arg(long, default_value_t = 2)]
    pub network: usize,

    /// What is drawn from it: work, faults and their times.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// How many gateways.
    #[arg(long, default_value_t = 2)]
    pub gateways: usize,

    /// How many schedulers.
    #[arg(long, default_value_t = 3)]
    pub schedulers: usize,

    /// How many workers.
    #[arg(long, default_value_t = 4)]
    pub workers: usize,

    /// Where logs and data are, until the run is good.
    #[arg(long, default_value = ".watchwork/chaos")]
    pub dir: PathBuf,

    /// Where the report is written, as Markdown.
    #[arg(long)]
    pub report: Option<PathBuf>,

    /// Keeps logs and data of a good run, too.
    #[arg(long)]
    pub keep: bool,

    /// Runs nothing, but checks again what the last run in that directory has left.
    #[arg(long)]
    pub again: bool,
}

impl Args {
    fn fleet(&self) -> Fleet {
        Fleet {
            gateways: self.gateways,
            schedulers: self.schedulers,
            workers: self.workers,
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            kills: self.kills,
            restarts: self.restarts,
            pauses: self.pauses,
            terminations: self.terminations,
            network: self.network,
        }
    }
}

/// Runs it, and tells whether all promises were kept.
///
/// # Errors
/// It couldn't be found out: something doesn't start, or doesn't come to its end.
pub async fn run(args: Args) -> Result<bool> {
    let begin = Instant::now();
    let dir = &args.dir;
    if args.again {
        let history = site::left_behind(dir).await?;
        return account_for(&args, history, begin.elapsed());
    }
    clear(dir)?;
    let (site, up_after) = (Site::start(dir, args.fleet()).await?, begin.elapsed());
    println!("up after {up_after:.1?}; logs are in {}", dir.display());
    let site = Arc::new(site);
    let told = under_fire(&args, &site).await;
    let site = Arc::into_inner(site).context("somebody still works on the site")?;
    let judged = told.and_then(|history| account_for(&args, history, begin.elapsed()));
    let keep = args.keep || !matches!(judged, Ok(true));
    site.stop(keep).await?;
    match keep {
        true => println!("logs and data are in {}", dir.display()),
        false => fs::remove_dir_all(dir)?,
    }
    judged
}

/// Checks a history that has the tables' part, and tells whether it is good.
fn account_for(args: &Args, mut history: History, took: Duration) -> Result<bool> {
    read_logs(&args.dir, &mut history)?;
    let report = check(&history);
    let account = Account {
        args,
        history: &history,
        report: &report,
        took,
    };
    account.print();
    if let Some(path) = &args.report {
        fs::write(path, account.to_markdown())
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(report.holds())
}

/// Load and damage, until all is quiet; the history has the tables' part then.
async fn under_fire(args: &Args, site: &Arc<Site>) -> Result<History> {
    let gateways = site.cluster.urls(cluster::Service::ApiGateway);
    let clients = Clients::of(
        &gateways,
        site.cluster.key(),
        &args.dir.join("client.jsonl"),
    )?;
    let pace = Pace {
        executions: args.executions,
        within: args.load,
        seed: args.seed,
    };
    let saboteur = Saboteur::of(site, &clients, &args.dir)?;
    let plan = plan(args.counts(), args.fleet(), args.load, args.seed);
    let tables = Tables::of(&site.database_url)?;
    let work = async {
        tokio::try_join!(clients.hand_in(pace), saboteur.carry_out(plan))?;
        until_quiet(&tables).await
    };
    tokio::select! {
        done = work => done?,
        failed = saboteur.look_after_all() => failed?,
    }
    saboteur.stop_workers().await?;
    tables.history().await
}

/// Waits until everything that is stored has come to its end.
async fn until_quiet(tables: &Tables) -> Result<()> {
    let begin = Instant::now();
    loop {
        let (there, ended) = tables.ended().await?;
        if there == ended {
            return Ok(());
        }
        if begin.elapsed() > QUIET_WITHIN {
            // The checker names them.
            println!(
                "{} executions don't end within {QUIET_WITHIN:?}",
                there - ended
            );
            return Ok(());
        }
        sleep(POLL).await;
    }
}

fn read_logs(dir: &Path, history: &mut History) -> Result<()> {
    history.client = journal::read(&dir.join("client.jsonl"))?;
    history.calls = journal::read(&calls_log(dir))?;
    history.faults = journal::read(&dir.join("faults.jsonl"))?;
    Ok(())
}

/// Takes away what an earlier run that failed has left.
fn clear(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    for name in ["client.jsonl", "calls.jsonl", "faults.jsonl", "logs"] {
        let path = dir.join(name);
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false if path.exists() => fs::remove_file(&path),
            false => Ok(()),
        };
        removed.with_context(|| format!("can't clear {}", path.display()))?;
    }
    ensure!(dir.is_dir(), "{} is no folder", dir.display());
    Ok(())
}
