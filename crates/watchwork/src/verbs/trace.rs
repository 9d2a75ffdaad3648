use std::time::Duration;

use proto::v1::{AttemptResult, Execution};
use serde_json::json;

use crate::client::{Client, is_final};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::trace_store::{Trace, TraceStore};
use crate::trace_tree;

/// Spans arrive a moment after what they tell of.
const PATIENCE: Duration = Duration::from_secs(6);

/// Draws an execution's trace.
pub(crate) async fn trace(
    output: &Output,
    client: &Client,
    store: &TraceStore,
    id: &str,
) -> Result<(), Failure> {
    let execution = client.get(id).await?;
    if !execution.trace_kept {
        return Err(not_kept(&execution));
    }
    let unreachable = |why: String| Failure::new(Kind::Unavailable, why);
    let attempts = finished_attempts(&execution);
    let found = store
        .wait_for(&execution.trace_id, attempts, PATIENCE)
        .await
        .map_err(unreachable)?;
    let trace = found.ok_or_else(|| {
        let id = &execution.trace_id;
        let message = format!("trace {id} was kept, but the trace store doesn't have it");
        Failure::new(Kind::NotFound, message)
    })?;
    show(output, &execution, &trace)?;
    if is_final(execution.state()) && !trace.is_whole(attempts) {
        eprintln!("watchwork: some spans haven't arrived at the trace store yet");
    }
    Ok(())
}

fn show(output: &Output, execution: &Execution, trace: &Trace) -> Result<(), Failure> {
    if !output.is_json() {
        return Ok(output.text(&trace_tree::draw(trace))?);
    }
    let spans = trace.spans.iter().map(|span| {
        let process = trace.processes.get(&span.process_id);
        json!({
            "service": process.map(|process| &process.service_name),
            "name": span.operation_name,
            "span_id": span.span_id,
            "parent_span_id": span.parent_id(),
            "start_us": span.start_time,
            "duration_us": span.duration,
            "error": span.is_error(),
        })
    });
    let spans = spans.collect::<Vec<_>>();
    let value = json!({
        "execution_id": execution.execution_id,
        "trace_id": trace.trace_id,
        "spans": spans,
    });
    Ok(output.json(&value)?)
}

fn not_kept(execution: &Execution) -> Failure {
    let id = &execution.execution_id;
    let message = if is_final(execution.state()) {
        format!(
            "the trace of {id} was not kept: it was neither a failure, nor slow, nor among the first \
             of its type, nor in the sample. A submission whose traceparent has the sampled flag \
             is always kept"
        )
    } else {
        format!("whether the trace of {id} is kept shows when it ends: `watchwork watch {id}`")
    };
    Failure::new(Kind::NotFound, message)
}

fn finished_attempts(execution: &Execution) -> usize {
    let is_over = |result: AttemptResult| result != AttemptResult::Unspecified;
    execution
        .attempts
        .iter()
        .filter(|attempt| is_over(attempt.result()))
        .count()
}
