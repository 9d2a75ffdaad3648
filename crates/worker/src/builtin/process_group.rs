use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

/// The process group of a program that we started as its leader. Killed whole when this is
/// dropped, unless it was before: nothing of it outlives the attempt.
pub(super) struct ProcessGroup {
    leader: Pid,
    killed: bool,
}

impl ProcessGroup {
    /// The group led by a process; `None` if that is no process' number.
    pub(super) fn led_by(pid: u32) -> Option<Self> {
        let leader = Pid::from_raw(i32::try_from(pid).ok()?)?;
        Some(Self {
            leader,
            killed: false,
        })
    }

    /// Asks all of it to end.
    pub(super) fn terminate(&self) {
        signal(self.leader, Signal::TERM);
    }

    /// Ends all of it.
    pub(super) fn kill(&mut self) {
        if !std::mem::replace(&mut self.killed, true) {
            signal(self.leader, Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(group: Pid, signal: Signal) {
    match kill_process_group(group, signal) {
        // Nobody left.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!(
            event = "kill_failed",
            group = group.as_raw_nonzero().get(),
            signal = signal.as_raw(),
            error = %error,
            "can't signal the process group of a command"
        ),
    }
}
