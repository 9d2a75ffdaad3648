//! How children are started: from a thread that outlives them, and tied to our own life.
//!
//! Nothing that we start may stay behind when we are gone, not even after a `kill -9` of ourselves.
//! Linux offers that as the parent-death signal, which `setpriv` of util-linux sets on the child's
//! side without unsafe code here. Without such a `setpriv` (macOS, busybox) children still end with
//! an orderly stop or a drop, but outlive a `kill -9`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

/// What the kernel sends to a child when we are gone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LastWord {
    /// Ends at once.
    Kill,
    /// PostgreSQL takes it as "fast shutdown".
    Interrupt,
}

impl LastWord {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Interrupt => "INT",
        }
    }
}

/// A command for `program` that gets `last_word` when this process ends, however it ends, where the
/// system can do that. It has a process group of its own, so that Ctrl-C in a terminal reaches us
/// alone and we stop it in order; it reads nothing.
pub(crate) fn command(program: impl AsRef<OsStr>, last_word: LastWord) -> Command {
    let mut command = if setpriv_works() {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", last_word.name(), "--"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Starts `command` from a thread that never ends.
///
/// The kernel sends the parent-death signal when the *thread* that started the child ends, and
/// threads of a runtime's pool come and go.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static NURSE: OnceLock<Sender<Order>> = OnceLock::new();
    let (answer, answered) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts children is gone");
    NURSE
        .get_or_init(start_nurse)
        .send(Order { command, answer })
        .map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

struct Order {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

fn start_nurse() -> Sender<Order> {
    let (orders, waiting) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for mut order in waiting {
            // The caller blocks until it has the answer, so there is always somebody to take it.
            let _ = order.answer.send(order.command.spawn());
        }
    });
    orders
}

fn setpriv_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}
