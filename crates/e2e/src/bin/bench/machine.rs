//! What it ran on.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use sqlx::{Connection, PgConnection};

/// Facts to print above the figures, one a line.
pub(crate) async fn facts(database_url: &str) -> Result<Vec<String>> {
    let mut connection = PgConnection::connect(database_url).await?;
    let mut settings = Vec::new();
    for name in [
        "server_version",
        "shared_buffers",
        "max_wal_size",
        "synchronous_commit",
    ] {
        let value: String = sqlx::query_scalar("select current_setting($1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
        settings.push(format!("{name} {value}"));
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = value_of("/proc/meminfo", "MemTotal");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(vec![
        format!(
            "{cores} × {}, {memory}, Linux {}",
            value_of("/proc/cpuinfo", "model name"),
            kernel.trim()
        ),
        format!("PostgreSQL: {}", settings.join(", ")),
        format!("revision {}", revision()),
    ])
}

/// How many processes wanted to run, on average over the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// The value behind `name` and a colon in a file of such lines.
fn value_of(path: &str, name: &str) -> String {
    let text = fs::read_to_string(Path::new(path)).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line
        .and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim().to_owned());
    value.unwrap_or_else(|| format!("unknown {name}"))
}

fn revision() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    if changed {
        format!("{revision} with changes")
    } else {
        revision
    }
}
