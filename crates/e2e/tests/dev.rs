//! `watchwork dev` while what it started dies under it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::DevFile;
use e2e::until;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The first start makes a database.
const STARTED_WITHIN: Duration = Duration::from_secs(90);
/// Its schedulers wait for a while for a database that isn't there.
const ENDED_WITHIN: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn dev_tells_of_a_worker_that_dies_and_ends_with_its_database() -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("watchwork-dev-")
        // PostgreSQL runs under another account if we are root.
        .permissions(Permissions::from_mode(0o755))
        .tempdir()?;
    let place = dir.path().join("dev");
    let mut dev = start(&place)?;
    let mut told = BufReader::new(dev.stderr.take().context("it was piped")?);
    until("it runs", STARTED_WITHIN, async || {
        ensure!(dev.try_wait()?.is_none(), "it ended while it started");
        Ok(DevFile::read(&place).is_ok())
    })
    .await?;
    let file = DevFile::read(&place)?;

    let worker = file.processes.iter().find(|it| it.instance == "worker-1");
    kill(worker.context("there is a worker")?.pid.try_into()?)?;
    let line = timeout(SOON, line_with(&mut told, "worker-1 ended")).await??;
    for part in [
        "SIGKILL",
        "its last line: {",
        "worker-1.log",
        "the others go on",
    ] {
        ensure!(line.contains(part), "{part}: {line}");
    }

    let mut connection = PgConnection::connect(&file.database_url).await?;
    let postmaster = "select split_part(pg_read_file('postmaster.pid'), e'\n', 1)::int";
    kill(
        sqlx::query_scalar(postmaster)
            .fetch_one(&mut connection)
            .await?,
    )?;
    let line = timeout(SOON, line_with(&mut told, "PostgreSQL ended")).await??;
    for part in ["SIGKILL", "its last line: ", "postgres.log"] {
        ensure!(line.contains(part), "{part}: {line}");
    }
    let status = timeout(ENDED_WITHIN, dev.wait()).await??;
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}

fn start(place: &std::path::Path) -> Result<Child> {
    let own = std::env::current_exe()?;
    // Tests lie one folder deeper than binaries.
    let folder = own.parent().and_then(|folder| folder.parent());
    Command::new(folder.context("tests are below target")?.join("watchwork"))
        .args(["dev", "--schedulers", "1", "--workers", "1", "--dir"])
        .arg(place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("can't run watchwork")
}

fn kill(pid: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).context("no process has the number 0")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

async fn line_with(said: &mut BufReader<impl AsyncRead + Unpin>, text: &str) -> Result<String> {
    loop {
        let mut line = String::new();
        ensure!(
            said.read_line(&mut line).await? > 0,
            "it never said {text:?}"
        );
        if line.contains(text) {
            return Ok(line);
        }
    }
}
