//! One trace, drawn.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use cluster::Cluster;
use watchwork::trace_store::TraceStore;
use watchwork::trace_tree;

use super::findings::Finding;
use super::tasks::Kind;

/// Spans arrive a moment after what they tell of.
const PATIENCE: Duration = Duration::from_secs(3);
/// A killed process takes its last spans with it, so that the newest stories are the fullest.
const CANDIDATES: usize = 8;

/// Prints the trace of an execution that failed at first.
///
/// # Errors
/// The traces can't be read, or none of them is whole.
pub(super) async fn print(cluster: &Cluster, findings: &[Finding<'_>]) -> Result<()> {
    let url = cluster.traces_url().context("there is no trace receiver")?;
    let store = TraceStore::new(&url).map_err(|why| anyhow!(why))?;
    let retried = findings.iter().rev().filter(|finding| {
        finding.task.kind == Kind::SecondTry && finding.attempts() == 2 && finding.failures() == 1
    });
    for finding in retried.take(CANDIDATES) {
        let id = &finding.execution.trace_id;
        let trace = store.wait_for(id, finding.attempts(), PATIENCE).await;
        let trace = trace.map_err(|why| anyhow!(why))?;
        if let Some(trace) = trace.filter(|trace| trace.is_whole(finding.attempts())) {
            let execution = &finding.execution.execution_id;
            println!("\nOne that was tried twice, {execution}");
            for line in trace_tree::draw(&trace).lines() {
                println!("  {}", line.trim_end());
            }
            return Ok(());
        }
    }
    Err(anyhow!(
        "of the executions that were retried, none has a whole trace"
    ))
}
