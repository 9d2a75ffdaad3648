//! `with-postgres COMMAND…`: runs a command with `DATABASE_URL` naming a private PostgreSQL server,
//! which it starts before and stops after. Ends as the command ends.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, Result};
use cluster::{Postgres, PostgresOptions, testing};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(env::args_os().skip(1).collect()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("with-postgres: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Vec<OsString>) -> Result<u8> {
    let (program, arguments) = command.split_first().context("say which command to run")?;
    let server = Postgres::start(&directory()?, PostgresOptions::default())?;
    let url = server.maintenance_url();
    testing::drop_leftover_databases(&url).await?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("DATABASE_URL", &url)
        .kill_on_drop(true);
    let status = outlast(command).await?;
    server.stop()?;
    Ok(code_of(status))
}

/// Runs the command to its end. Ctrl-C reaches it from the terminal, as it does us: we wait for what
/// it makes of it. SIGTERM reaches only us, so it is handed on as an end.
async fn outlast(mut command: Command) -> Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = command
        .spawn()
        .with_context(|| format!("can't run {command:?}"))?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => child.start_kill()?,
        }
    }
}

/// `target/test-postgres`, seen from `target/<profile>/with-postgres`.
fn directory() -> Result<PathBuf> {
    let us = env::current_exe()?;
    let target = us
        .ancestors()
        .nth(2)
        .context("this program is not in a target folder")?;
    Ok(target.join("test-postgres"))
}

/// As a shell has it: 128 and the signal's number for a command that a signal ended.
fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
