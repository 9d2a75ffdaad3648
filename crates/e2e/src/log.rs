//! What processes said of themselves.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::{Cluster, Member, Service};
use serde_json::Value;

use crate::until::until;

/// The events of a name in a process' log, in order.
///
/// # Errors
/// Its log can't be read.
pub fn events(member: &Member, name: &str) -> Result<Vec<Value>> {
    let log = fs::read_to_string(member.log());
    let log = log.with_context(|| format!("{} has no log", member.instance()))?;
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter(|line| line["event"] == name).collect())
}

/// How many events of a name all processes of a service have logged.
///
/// # Errors
/// A log can't be read.
pub fn count_events(cluster: &Cluster, service: Service, name: &str) -> Result<usize> {
    let mut count = 0;
    for member in cluster.members() {
        if member.service() == service {
            count += events(&member, name)?.len();
        }
    }
    Ok(count)
}

/// Waits until a process has logged more than `before` events of a name.
///
/// # Errors
/// It doesn't within `deadline`.
pub async fn until_logged(
    member: &Member,
    (name, before): (&str, usize),
    deadline: Duration,
) -> Result<()> {
    let what = format!("{} says {name}", member.instance());
    until(&what, deadline, async || {
        Ok(events(member, name)?.len() > before)
    })
    .await
}
