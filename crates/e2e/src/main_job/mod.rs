//! The main job: everything on this machine, real work through the public API, a worker and a
//! scheduler killed in the middle, and the account of it. Nothing is left running.

mod account;
mod course;
mod faults;
mod findings;
mod input;
mod percentiles;
mod progress;
mod tasks;
mod tracing_example;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use cluster::{Cluster, Options, Queue, Tenant};
use tokio::signal::unix::{SignalKind, signal};
use watchwork::client::Client;

use crate::{Ledger, Tracker};
use account::{LABEL, seconds};
use course::{Course, Stage};
use findings::{Finding, complaints, find_all};

/// Where it keeps its database and logs, below the directory it is run in.
const DIRECTORY: &str = ".watchwork/main-job";
/// No more than so many complaints are printed.
const COMPLAINTS: usize = 20;

/// As a shell has it for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// How a run ended that didn't go wrong.
enum End {
    Done,
    /// By Ctrl-C or SIGTERM.
    Stopped,
}

/// Runs the main job on the files of the current directory.
pub async fn run() -> ExitCode {
    let begin = Instant::now();
    let (code, last) = match in_order().await {
        Ok(End::Done) => (ExitCode::SUCCESS, "All is well: done".to_owned()),
        Ok(End::Stopped) => (ExitCode::from(INTERRUPTED), "Stopped".to_owned()),
        Err(error) => (ExitCode::FAILURE, format!("FAILED: {error:#}\n\nEnded")),
    };
    let took = seconds(begin.elapsed());
    println!("\n{last} after {took}, nothing is left running.");
    code
}

/// Brings the cluster up, uses it, and takes it down whatever happens in between.
async fn in_order() -> Result<End> {
    let root = env::current_dir()?;
    let begin = Instant::now();
    println!("The main job: work on the files of {}\n", root.display());
    let cluster = tokio::select! {
        started = Cluster::start(options(&root)) => started?,
        () = told_to_stop() => return Ok(End::Stopped),
    };
    println!(
        "  up after {}: 1 gateway, 2 schedulers, 2 workers, PostgreSQL, a trace receiver",
        seconds(begin.elapsed())
    );
    let end = tokio::select! {
        done = use_it(&cluster, &root) => done.map(|()| End::Done),
        () = told_to_stop() => Ok(End::Stopped),
    };
    let logs = cluster.dir().join("logs");
    let stopped = tokio::select! {
        stopped = cluster.stop() => stopped,
        // What is left of the cluster is killed when it is dropped.
        () = told_to_stop() => return Ok(End::Stopped),
    };
    end.and_then(|end| stopped.map(|()| end))
        .map_err(|error| anyhow!("{error:#}\nThe logs are in {}", logs.display()))
}

/// What suits a laptop, with a queue that spreads over all lanes, so that both schedulers have work.
fn options(root: &Path) -> Options {
    let mut options = Options::new(root.join(DIRECTORY));
    options.tenants = vec![Tenant {
        name: "demo".to_owned(),
        queues: vec![Queue::new("default", options.lanes)],
    }];
    options
}

async fn use_it(cluster: &Cluster, root: &Path) -> Result<()> {
    let files = input::files_below(root)?;
    let scratch = tempfile::Builder::new()
        .prefix("scratch-")
        .tempdir_in(cluster.dir())?;
    let tasks = tasks::tasks(&files, root, scratch.path());
    println!("  {} executions on {} files\n", tasks.len(), files.len());

    let address = cluster.gateway_url().context("there is no gateway")?;
    let client = Client::new(&address, cluster.key()).map_err(|why| anyhow!(why))?;
    let ledger = Ledger::open(cluster.database_url()).await?;
    let tracker = Arc::new(Tracker::new(client.clone()));
    let stage = Stage {
        cluster,
        client: &client,
        ledger: &ledger,
        tracker: &tracker,
    };
    let course = stage.run(&tasks).await?;

    let findings = find_all(&client, &tasks, &course.handed_in).await?;
    let complaints = complaints(&findings, &ledger).await?;
    account::print_outcomes(&findings);
    account::print_kills(&course);
    account::print_speed(&course, &tracker, &findings);
    judge(&course, &findings, &complaints)?;
    tracing_example::print(cluster, &findings).await?;
    print_places(cluster.dir());
    Ok(())
}

/// Says whether all came to the right end.
fn judge(course: &Course, findings: &[Finding<'_>], complaints: &[String]) -> Result<()> {
    let all = findings.len();
    println!("\nVerdict");
    if complaints.is_empty() {
        println!(
            "  Each of {all} acknowledged executions ended once, by the API and by the database, \
             and every output is right."
        );
        return Ok(());
    }
    for complaint in complaints.iter().take(COMPLAINTS) {
        println!("  {complaint}");
    }
    if let Some(why) = &course.unended {
        println!("  not all ended in time: {why:#}");
    }
    bail!(
        "{} complaints about {all} acknowledged executions",
        complaints.len()
    )
}

fn print_places(dir: &Path) {
    let logs = dir.join("logs").display().to_string();
    let places = [
        (
            "make dev",
            "everything, to play with; then, in another terminal:",
        ),
        (
            "watchwork submit TYPE --wait",
            "hands in an execution and follows it (in target/debug)",
        ),
        (
            "watchwork get ID, watchwork trace ID",
            "what became of it, and its trace as above",
        ),
        (&logs, "what the processes of this run said"),
        ("docs/architecture.md", "how it works"),
    ];
    println!("\nWhere to look next");
    for (place, what) in places {
        println!("  {place:<LABEL$}{what}");
    }
}

/// Ctrl-C or SIGTERM.
async fn told_to_stop() {
    let listen = |kind| signal(kind).expect("this process may take signals");
    let mut interrupt = listen(SignalKind::interrupt());
    let mut terminate = listen(SignalKind::terminate());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
