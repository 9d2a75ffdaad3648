use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use cluster::{Cluster, DevFile, Options};
use indicatif::ProgressBar;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::DevArgs;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::text;

/// How often it is looked whether all processes live.
const LOOK: Duration = Duration::from_secs(1);

/// Runs everything on this machine until it is told to stop.
pub(crate) async fn dev(output: &Output, args: DevArgs) -> Result<(), Failure> {
    let mut stop = StopSignals::listen()?;
    let failed = |error: anyhow::Error| Failure::failed("dev", format!("{error:#}"));
    let starting = spinner("starting PostgreSQL, schedulers, gateway and workers");
    let cluster = tokio::select! {
        started = Cluster::start(options(&args)) => started.map_err(failed),
        () = stop.next() => return Ok(()),
    };
    starting.finish_and_clear();
    let cluster = cluster?;
    announce(output, &cluster)?;
    let lost = tokio::select! {
        () = stop.next() => None,
        lost = look_after(&cluster) => Some(lost),
    };
    if let Some(lost) = &lost {
        eprintln!("watchwork: {}; everything else is stopped", lost.message);
    }
    let stopping = spinner("stopping; Ctrl-C again kills");
    let stopped = tokio::select! {
        stopped = cluster.stop() => stopped.map_err(failed),
        // Dropping a cluster kills what is left of it.
        () = stop.next() => Ok(()),
    };
    stopping.finish_and_clear();
    match lost {
        // How the rest went without it tells nothing more.
        Some(lost) => Err(Failure::new(lost.kind, "")),
        None => stopped,
    }
}

/// Says once of each process that it ended, since nobody starts it again here. Ends with the database, without
/// which nothing works.
async fn look_after(cluster: &Cluster) -> Failure {
    let mut told = HashSet::new();
    loop {
        if let Some(lost) = lost_database(cluster) {
            return lost;
        }
        for member in cluster.members() {
            if let Some(status) = member.ended()
                && told.insert(member.instance().to_owned())
            {
                let end = text::end_of(member.instance(), &status.to_string(), member.log());
                eprintln!("watchwork: {end}; the others go on");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why there is no database any more.
fn lost_database(cluster: &Cluster) -> Option<Failure> {
    let postgres = cluster.postgres()?;
    let what = match postgres.ended() {
        Ok(None) => return None,
        Ok(Some(status)) => text::end_of("PostgreSQL", &status.to_string(), postgres.log()),
        Err(error) => format!("{error:#}"),
    };
    Some(Failure::new(Kind::Failed, what))
}

fn options(args: &DevArgs) -> Options {
    let mut options = Options::new(&args.dir);
    options.schedulers = args.schedulers.into();
    options.workers = args.workers.into();
    options.database_url.clone_from(&args.database_url);
    options
}

fn announce(output: &Output, cluster: &Cluster) -> Result<(), Failure> {
    let dev = DevFile::read(cluster.dir())
        .map_err(|error| Failure::failed("dev", format!("{error:#}")))?;
    if output.is_json() {
        return Ok(output.json(&dev)?);
    }
    Ok(output.text(&describe(&dev, cluster.dir()))?)
}

fn describe(dev: &DevFile, dir: &Path) -> String {
    let row = |name: &str, value: &str| vec![format!("  {name}"), value.to_owned()];
    let mut places = vec![
        row("gateway", dev.gateway_url.as_deref().unwrap_or("-")),
        row("key", &dev.key),
        row("traces", dev.traces_url.as_deref().unwrap_or("-")),
        row("database", &dev.database_url),
        row("directory", &dir.display().to_string()),
    ];
    for process in &dev.processes {
        let url = format!("http://{}/metrics", process.admin_address);
        places.push(row(&process.instance, &url));
    }
    let places = text::table(&places);
    format!(
        "Watchwork is running; Ctrl-C ends all of it.\n\n{places}\nTry, in another terminal:\n\n{}\n",
        commands(dev, dir)
    )
}

/// What to try. Commands find a cluster that runs in `.watchwork` by themselves; any other must be
/// named.
fn commands(dev: &DevFile, dir: &Path) -> String {
    let mut lines = Vec::new();
    if !dir.ends_with(".watchwork") {
        let gateway = dev.gateway_url.as_deref().unwrap_or_default();
        let traces = dev.traces_url.as_deref().unwrap_or_default();
        lines.push(format!(
            "export WATCHWORK_ADDRESS={gateway} WATCHWORK_TRACES={traces}"
        ));
        lines.push(format!("export WATCHWORK_KEY={}", dev.key));
    }
    lines.push("watchwork submit sleep --payload '{\"ms\":200}' --wait".to_owned());
    lines.push("watchwork submit fail --payload '{\"times\":1}' --wait".to_owned());
    lines.push("watchwork get ID".to_owned());
    lines.push("watchwork list".to_owned());
    lines.push("watchwork watch ID".to_owned());
    lines.push("watchwork trace ID".to_owned());
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn spinner(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Ctrl-C and SIGTERM.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|why| Failure::failed("can't take signals", why));
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self {
            interrupt: listen(interrupt)?,
            terminate: listen(terminate)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
