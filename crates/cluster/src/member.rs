//! One process of the cluster, our child.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::time::sleep;

use crate::directory::{last_lines, open_log};
use crate::environment;
use crate::listening::{Addresses, find_listening};
use crate::nursery::{self, LastWord};
use crate::service::Service;

const POLL: Duration = Duration::from_millis(10);

/// How a member is started, each time again.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What it is.
    pub service: Service,
    /// Its name in the cluster, for example `worker-2`.
    pub instance: String,
    /// The program.
    pub binary: PathBuf,
    /// All that it is told. Of our own environment it gets only what says nothing about Watchwork.
    pub env: Vec<(String, String)>,
    /// Where its output goes; what earlier runs wrote stays.
    pub log: PathBuf,
    /// How long it may take until it listens.
    pub deadline: Duration,
}

/// One process of the cluster. It is killed when this value is dropped, and when we are, where the
/// system can do that (see `setpriv`).
#[derive(Debug)]
pub struct Member {
    launch: Launch,
    run: Mutex<Run>,
}

#[derive(Debug)]
struct Run {
    child: Child,
    /// Where this run begins in the log.
    log_begin: u64,
    /// Known once it listens.
    addresses: Addresses,
}

impl Member {
    /// Starts the process and waits until it listens.
    ///
    /// # Errors
    /// It ends instead, or doesn't listen in time; the error holds the end of its log.
    pub async fn start(launch: Launch) -> Result<Self> {
        let member = Self::spawn(launch)?;
        member.wait_until_listening().await?;
        Ok(member)
    }

    /// Starts the process.
    ///
    /// # Errors
    /// The program can't be run.
    pub(crate) fn spawn(launch: Launch) -> Result<Self> {
        let run = Mutex::new(Run::begin(&launch)?);
        Ok(Self { launch, run })
    }

    /// Waits until it said where it listens.
    ///
    /// # Errors
    /// It ends instead, or takes too long; the error holds the end of its log.
    pub(crate) async fn wait_until_listening(&self) -> Result<()> {
        let deadline = Instant::now() + self.launch.deadline;
        while !self.run().found_listening(&self.launch)? {
            if Instant::now() > deadline {
                let error = self.complaint("doesn't listen in time");
                self.kill()?;
                bail!(error);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Its name in the cluster.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.launch.instance
    }

    /// What it is.
    #[must_use]
    pub fn service(&self) -> Service {
        self.launch.service
    }

    /// Its log, with that of earlier runs.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// `127.0.0.1:port` of its gRPC; workers have none.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.run().addresses.address.clone()
    }

    /// `127.0.0.1:port` of its health and metrics.
    #[must_use]
    pub fn admin_address(&self) -> String {
        self.run().addresses.admin_address.clone()
    }

    /// The process id of its latest run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.run().child.id()
    }

    /// Whether its process runs; one that is paused does.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.run().status().is_none()
    }

    /// How its process ended; none while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.run().status()
    }

    /// `kill -9` of the process alone, as a crash would end it. Does nothing if it ended already.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&self) -> Result<()> {
        let mut run = self.run();
        run.child
            .kill()
            .with_context(|| format!("can't kill {}", self.launch.instance))?;
        run.child.wait()?;
        Ok(())
    }

    /// Stops it where it stands (SIGSTOP): it keeps its connections and says nothing any more.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Errors
    /// It doesn't run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end in order (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// It doesn't run, or takes longer than `deadline` and was killed.
    pub async fn terminate(&self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        // One that is paused wouldn't hear it.
        self.signal(Signal::CONT)?;
        self.wait_for_end(deadline).await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It takes longer than `deadline`, and was killed.
    pub async fn wait_for_end(&self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.run().status() {
                return Ok(status);
            }
            if Instant::now() > end {
                self.kill()?;
                bail!(
                    "{} didn't end within {deadline:?} and was killed",
                    self.launch.instance
                );
            }
            sleep(POLL).await;
        }
    }

    /// Starts it again as it was, at the same addresses if it was told them; one that runs is killed
    /// before.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn restart(&self) -> Result<()> {
        self.kill()?;
        *self.run() = Run::begin(&self.launch)?;
        self.wait_until_listening().await
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let mut run = self.run();
        if let Some(status) = run.status() {
            bail!(
                "{} doesn't run: it ended with {status}",
                self.launch.instance
            );
        }
        kill_process(Pid::from_child(&run.child), signal)
            .with_context(|| format!("can't signal {}", self.launch.instance))
    }

    /// An error's text that says what is wrong with it, and what its log says.
    pub(crate) fn complaint(&self, what: &str) -> String {
        let log = last_lines(&self.launch.log, self.run().log_begin);
        format!("{} {what}; {log}", self.launch.instance)
    }

    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn begin(launch: &Launch) -> Result<Self> {
        let log = open_log(&launch.log)?;
        let log_begin = fs::metadata(&launch.log)?.len();
        let mut command = nursery::command(&launch.binary, LastWord::Kill);
        environment::replace(&mut command, &launch.env);
        command.stdout(log.try_clone()?).stderr(log);
        let child = nursery::spawn(command)
            .with_context(|| format!("can't run {}", launch.binary.display()))?;
        Ok(Self {
            child,
            log_begin,
            addresses: Addresses::default(),
        })
    }

    /// Learns the addresses, if they are known by now.
    fn found_listening(&mut self, launch: &Launch) -> Result<bool> {
        // Before the log is read: what it wrote last is then there.
        let ended = self.status();
        if let Some(addresses) = find_listening(&launch.log, self.log_begin) {
            self.addresses = addresses;
            return Ok(true);
        }
        ended.map_or(Ok(false), |status| {
            let log = last_lines(&launch.log, self.log_begin);
            bail!(
                "{} ended while it started ({status}); {log}",
                launch.instance
            )
        })
    }

    /// How it ended; none while it runs.
    fn status(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("our own child, whose handle nobody else waits on")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.status().is_none() {
            // With what it started: those are in its process group.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
