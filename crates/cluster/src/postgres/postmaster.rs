//! One run of a PostgreSQL server: its start, its end, and what an earlier run left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::PostgresOptions;
use super::binaries::Binaries;
use super::home::Home;
use crate::directory::{last_lines, open_log, read_log};
use crate::nursery::{self, LastWord};

/// Recovery after a crash may take a while.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A fast shutdown writes a checkpoint.
const FAST_DEADLINE: Duration = Duration::from_secs(30);
const IMMEDIATE_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// A running server, our child.
#[derive(Debug)]
pub(super) struct Postmaster {
    child: Child,
}

impl Postmaster {
    /// Starts the server and waits until it takes connections.
    ///
    /// # Errors
    /// It ends instead, or takes too long; the error holds the end of its log.
    pub(super) fn start(
        home: &Home,
        binaries: &Binaries,
        log: &Path,
        port: u16,
        options: &PostgresOptions,
    ) -> Result<Self> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let log_begin = fs::metadata(log).map_or(0, |metadata| metadata.len());
            let child = spawn(server_command(home, binaries, port, options)?, log)?;
            let mut postmaster = Self { child };
            match postmaster.wait_until_ready(&home.data(), deadline) {
                Ok(()) => return Ok(postmaster),
                Err(_) if Instant::now() < deadline && orphans_remain(log, log_begin) => {
                    thread::sleep(POLL);
                }
                Err(error) => return Err(error.context(last_lines(log, log_begin))),
            }
        }
    }

    /// `kill -9`, as a crash would end it.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("can't kill PostgreSQL")?;
        self.child.wait().context("can't wait for PostgreSQL")?;
        Ok(())
    }

    /// How it ended; none while it runs.
    ///
    /// # Errors
    /// The system refuses to tell.
    pub(super) fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("can't look at PostgreSQL")
    }

    /// Ends it in order, as far as it lets itself be.
    pub(super) fn stop(&mut self) -> Result<()> {
        for (signal, deadline) in STEPS {
            if let Some(status) = self.child.try_wait()? {
                return report_end(status);
            }
            kill_process(Pid::from_child(&self.child), signal)?;
            if let Some(status) = self.wait_for_end(deadline)? {
                return report_end(status);
            }
        }
        self.kill()?;
        bail!("PostgreSQL didn't stop in time and was killed; its next start recovers the data")
    }

    fn wait_until_ready(&mut self, data: &Path, deadline: Instant) -> Result<()> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("PostgreSQL ended while it started ({status})");
            }
            if PidFile::read(data).is_some_and(|file| file.pid == self.pid() && file.ready) {
                return Ok(());
            }
            if Instant::now() > deadline {
                self.kill()?;
                bail!("PostgreSQL wasn't ready within {START_DEADLINE:?}");
            }
            thread::sleep(POLL);
        }
    }

    fn wait_for_end(&mut self, deadline: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + deadline;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() > end {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
    }

    fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_nonzero().get()
    }
}

/// Fast shutdown, then immediate shutdown.
const STEPS: [(Signal, Duration); 2] = [
    (Signal::INT, FAST_DEADLINE),
    (Signal::QUIT, IMMEDIATE_DEADLINE),
];

fn report_end(status: ExitStatus) -> Result<()> {
    ensure!(status.success(), "PostgreSQL ended with {status}");
    Ok(())
}

/// Ends what an earlier run that was killed left running in this data directory, and takes away its
/// lock file, whose process id may by now be somebody else's.
///
/// # Errors
/// It can't be ended.
pub(super) fn clear_leftovers(data: &Path) -> Result<()> {
    let Some(file) = PidFile::read(data) else {
        return Ok(());
    };
    if let Some(pid) = Pid::from_raw(file.pid).filter(|_| file.pid > 1) {
        for (signal, deadline) in STEPS
            .into_iter()
            .chain([(Signal::KILL, IMMEDIATE_DEADLINE)])
        {
            if !is_server_of(data, pid) {
                break;
            }
            kill_process(pid, signal)
                .with_context(|| format!("can't stop the PostgreSQL server {}", file.pid))?;
            let end = Instant::now() + deadline;
            while is_server_of(data, pid) && Instant::now() < end {
                thread::sleep(POLL);
            }
        }
        ensure!(
            !is_server_of(data, pid),
            "the PostgreSQL server {} can't be stopped",
            file.pid
        );
    }
    match fs::remove_file(PidFile::path(data)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// PostgreSQL's own `postmaster.pid`.
struct PidFile {
    pid: i32,
    ready: bool,
}

impl PidFile {
    fn path(data: &Path) -> PathBuf {
        data.join("postmaster.pid")
    }

    fn read(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::path(data)).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        // The eighth line; the same that pg_ctl waits for.
        let ready = lines.nth(6).is_some_and(|status| status.trim() == "ready");
        Some(Self { pid, ready })
    }
}

/// Whether the process is a server that works in this data directory (PostgreSQL's working
/// directory), and not another one that got the same id later.
fn is_server_of(data: &Path, pid: Pid) -> bool {
    let id = pid.as_raw_nonzero().get();
    if Path::new("/proc/self").exists() {
        return fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd == data);
    }
    let arguments = Command::new("ps")
        .args(["-o", "args=", "-p", &id.to_string()])
        .output();
    arguments.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).contains(&*data.to_string_lossy())
    })
}

/// The backends of a server that was killed need a moment to notice; until then a new one refuses
/// to start.
fn orphans_remain(log: &Path, log_begin: u64) -> bool {
    read_log(log, log_begin).contains("pre-existing shared memory block")
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log = open_log(log)?;
    command.stdout(log.try_clone()?).stderr(log);
    nursery::spawn(command).context("can't run PostgreSQL")
}

fn server_command(
    home: &Home,
    binaries: &Binaries,
    port: u16,
    options: &PostgresOptions,
) -> Result<Command> {
    let socket = home
        .socket()?
        .map_or_else(String::new, |folder| folder.display().to_string());
    let mut command = nursery::command(binaries.program("postgres"), LastWord::Interrupt);
    command.arg("-D").arg(home.data()).current_dir("/");
    home.account.run(&mut command);
    command.envs(options.env.iter().map(|(name, value)| (name, value)));
    for setting in [
        "listen_addresses=127.0.0.1",
        &format!("port={port}"),
        &format!("unix_socket_directories={socket}"),
        "max_connections=200",
        &format!("shared_buffers={}MB", options.shared_buffers_mb),
        "fsync=on",
        "synchronous_commit=on",
        "max_wal_size=4GB",
        "wal_compression=lz4",
        "checkpoint_timeout=15min",
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
        "log_line_prefix=%m [%p] %a ",
    ] {
        command.args(["-c", setting]);
    }
    Ok(command)
}
