//! The environment of the members.

use std::env;
use std::process::Command;

/// What members take over from us. The rest stays outside, so that a variable of the caller's shell
/// (`OTEL_…`, `DATABASE_URL`) can't configure them by accident.
const INHERITED: [&str; 12] = [
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LLVM_PROFILE_FILE",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TMPDIR",
    "TOKIO_WORKER_THREADS",
    "TZ",
    "USER",
];

/// Gives `command` these variables and those that are inherited, and no others.
pub(crate) fn replace(command: &mut Command, variables: &[(String, String)]) {
    command.env_clear();
    for name in INHERITED {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
}
