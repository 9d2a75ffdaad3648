//! What a process tells in its log of where it listens.

use std::path::Path;

use serde::Deserialize;

use crate::directory::read_log;

/// Where a process listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Addresses {
    /// gRPC, `host:port`; workers have none.
    pub(crate) address: Option<String>,
    /// Health and metrics, `host:port`.
    pub(crate) admin_address: String,
}

/// The first line of event `listening` from byte `offset` of the log on.
pub(crate) fn find_listening(log: &Path, offset: u64) -> Option<Addresses> {
    read_log(log, offset).lines().find_map(listening_line)
}

fn listening_line(line: &str) -> Option<Addresses> {
    #[derive(Deserialize)]
    struct Line {
        event: String,
        context: Addresses,
    }
    // A line that is only half written isn't JSON yet; the next look finds it whole.
    let line: Line = serde_json::from_str(line).ok()?;
    (line.event == "listening").then_some(line.context)
}
