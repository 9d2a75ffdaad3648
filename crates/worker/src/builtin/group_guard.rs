use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::process_group::ProcessGroup;

/// The argument by which this program becomes a guard.
const ARGUMENT: &str = "guard-process-groups";
/// How long groups may take to end when they are asked to.
const TERMINATED_WITHIN: Duration = Duration::from_secs(2);

/// A small process that kills the programs of a worker which can't do it any more, because it was
/// itself killed with SIGKILL. The worker tells it through a pipe which process groups there are;
/// the pipe's end is the worker's. (The kernel's own way, a signal at the parent's death, can't be
/// set without unsafe code, and reaches the program alone, not what it started.)
///
/// A program that starts in the very moment in which the worker is killed may be missed.
#[derive(Clone)]
pub struct GroupGuard {
    pipe: Arc<Mutex<ChildStdin>>,
}

/// One group under guard, until this is dropped.
pub(super) struct Guarded<'a> {
    guard: &'a GroupGuard,
    leader: u32,
}

impl GroupGuard {
    /// Starts a guard: this same program again, whose `main` must begin with
    /// [`GroupGuard::is_asked_for`].
    ///
    /// # Errors
    /// The program can't be started again.
    pub fn start() -> io::Result<Self> {
        let mut guard = std::process::Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The signal that ends the worker's group must not end the guard.
            .process_group(0)
            .spawn()?;
        let pipe = guard.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            pipe: Arc::new(Mutex::new(pipe)),
        })
    }

    /// Whether this process was started to be a guard.
    #[must_use]
    pub fn is_asked_for() -> bool {
        std::env::args()
            .nth(1)
            .is_some_and(|argument| argument == ARGUMENT)
    }

    /// The guard's whole life.
    #[must_use]
    pub fn watch() -> ExitCode {
        let mut leaders = HashSet::new();
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            note(&mut leaders, &line);
        }
        let groups: Vec<_> = leaders
            .into_iter()
            .filter_map(ProcessGroup::led_by)
            .collect();
        if !groups.is_empty() {
            groups.iter().for_each(ProcessGroup::terminate);
            thread::sleep(TERMINATED_WITHIN);
        }
        // Dropping the groups kills what is left of them.
        ExitCode::SUCCESS
    }

    /// Guards the group led by a process.
    pub(super) fn guard(&self, leader: u32) -> Guarded<'_> {
        self.tell('+', leader);
        Guarded {
            guard: self,
            leader,
        }
    }

    fn tell(&self, sign: char, leader: u32) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(pipe, "{sign}{leader}") {
            tracing::warn!(
                event = "guard_lost",
                error = %error,
                "the guard of this worker's programs is gone: they would outlive a SIGKILL; restart the worker"
            );
        }
    }
}

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        self.guard.tell('-', self.leader);
    }
}

fn note(leaders: &mut HashSet<u32>, line: &str) {
    match line.split_at_checked(1) {
        Some(("+", leader)) => leaders.extend(leader.parse::<u32>()),
        Some(("-", leader)) => {
            if let Ok(leader) = leader.parse() {
                leaders.remove(&leader);
            }
        }
        _ => {}
    }
}
