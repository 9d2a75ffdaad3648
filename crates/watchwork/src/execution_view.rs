//! An execution as it is shown: as JSON with plain names, and as text.

use std::collections::BTreeMap;

use proto::v1::{Attempt, Execution, ExecutionState, Priority, Reason};
use serde::Serialize;
use serde_json::Value;

use crate::client::is_final;
use crate::progress_view::{
    CheckpointView, ItemsView, ProgressView, checkpoint, items_counted, progress,
};
use crate::text;

/// An execution for programs. Durations are in milliseconds.
#[derive(Serialize)]
pub(crate) struct ExecutionView<'a> {
    execution_id: &'a str,
    job_type: &'a str,
    queue: &'a str,
    priority: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    fence: u64,
    labels: BTreeMap<&'a str, &'a str>,
    correlation_id: &'a str,
    submitted_at: Option<String>,
    state_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    cancel_requested: bool,
    max_attempts: u32,
    max_lost: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointView<'a>>,
    attempts: Vec<AttemptView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
    trace_id: &'a str,
    trace_kept: bool,
    partition: u32,
}

#[derive(Serialize)]
struct AttemptView<'a> {
    number: u32,
    fence: u64,
    worker_id: &'a str,
    result: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error_class: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    error_message: &'a str,
    dispatched_at: Option<String>,
    queued_ms: Option<f64>,
    dispatching_ms: Option<f64>,
    running_ms: Option<f64>,
    reporting_ms: Option<f64>,
    recorded_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<ItemsView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressView<'a>>,
}

impl<'a> From<&'a Execution> for ExecutionView<'a> {
    fn from(execution: &'a Execution) -> Self {
        let labels = execution.labels.iter();
        Self {
            execution_id: &execution.execution_id,
            job_type: &execution.job_type,
            queue: &execution.queue,
            priority: priority_name(execution.priority()),
            state: state_name(execution.state()),
            reason: reason_name(execution.reason()),
            fence: execution.fence,
            labels: labels
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            correlation_id: &execution.correlation_id,
            submitted_at: execution.submitted_at.as_ref().and_then(text::timestamp),
            state_since: execution.state_since.as_ref().and_then(text::timestamp),
            next_attempt_at: execution.next_attempt_at.as_ref().and_then(text::timestamp),
            due_at: execution.due_at.as_ref().and_then(text::timestamp),
            cancel_requested: execution.cancel_requested,
            max_attempts: execution.max_attempts,
            max_lost: execution.max_lost,
            expires_at: execution.expires_at.as_ref().and_then(text::timestamp),
            progress: execution.progress.as_ref().map(ProgressView::from),
            checkpoint: execution.checkpoint.as_ref().map(CheckpointView::from),
            attempts: execution.attempts.iter().map(AttemptView::from).collect(),
            output: output(execution),
            trace_id: &execution.trace_id,
            trace_kept: execution.trace_kept,
            partition: execution.partition,
        }
    }
}

impl<'a> From<&'a Attempt> for AttemptView<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        Self {
            number: attempt.number,
            fence: attempt.fence,
            worker_id: &attempt.worker_id,
            result: result_name(attempt),
            reason: reason_name(attempt.reason()),
            error_class: &attempt.error_class,
            error_message: &attempt.error_message,
            dispatched_at: attempt.dispatched_at.as_ref().and_then(text::timestamp),
            queued_ms: millis(attempt.queued),
            dispatching_ms: millis(attempt.dispatching),
            running_ms: millis(attempt.running),
            reporting_ms: millis(attempt.reporting),
            recorded_at: attempt.recorded_at.as_ref().and_then(text::timestamp),
            next_attempt_at: attempt.next_attempt_at.as_ref().and_then(text::timestamp),
            items: attempt.items.map(ItemsView::from),
            progress: attempt.progress.as_ref().map(ProgressView::from),
        }
    }
}

/// The execution for people: what it is, where it stands, and its attempts.
pub(crate) fn describe(execution: &Execution) -> String {
    let mut facts = vec![
        fact("execution", &execution.execution_id),
        fact("type", &execution.job_type),
        fact(
            "queue",
            format!(
                "{}, priority {}",
                execution.queue,
                priority_name(execution.priority())
            ),
        ),
        fact("state", standing(execution)),
    ];
    let mut add = |name: &str, value: Option<String>| {
        facts.extend(
            value
                .filter(|value| !value.is_empty())
                .map(|value| fact(name, value)),
        );
    };
    add(
        "submitted",
        execution.submitted_at.as_ref().and_then(text::timestamp),
    );
    add("due", execution.due_at.as_ref().and_then(text::timestamp));
    add("progress", execution.progress.as_ref().map(progress));
    add("checkpoint", execution.checkpoint.as_ref().map(checkpoint));
    let items = execution.attempts.iter().rev().find_map(|a| a.items);
    add("items", items.map(items_counted));
    add(
        "next attempt",
        execution.next_attempt_at.as_ref().and_then(text::timestamp),
    );
    let expires = execution.expires_at.as_ref().and_then(text::timestamp);
    add("expires", expires.filter(|_| !is_final(execution.state())));
    let is_own = execution.correlation_id != execution.execution_id;
    add(
        "correlation",
        is_own.then(|| execution.correlation_id.clone()),
    );
    add("labels", Some(labels(execution)));
    let kept = if execution.trace_kept {
        "kept"
    } else {
        "not kept"
    };
    add("trace", Some(format!("{} ({kept})", execution.trace_id)));
    add(
        "output",
        output(execution).map(|output| text::one_line(&output.to_string(), 200)),
    );
    let mut shown = text::table(&facts);
    if !execution.attempts.is_empty() {
        shown.push('\n');
        shown.push_str(&text::table(&attempts(execution)));
    }
    shown
}

/// The state's name: `SUCCEEDED`.
pub(crate) fn state_name(state: ExecutionState) -> &'static str {
    text::short_name(state.as_str_name(), "EXECUTION_STATE_")
}

/// The reason's name: `WORKER_LOST`; `None` if there is nothing more to say.
pub(crate) fn reason_name(reason: Reason) -> Option<&'static str> {
    (reason != Reason::Unspecified).then(|| text::short_name(reason.as_str_name(), "REASON_"))
}

/// The priority's name: `normal`.
pub(crate) fn priority_name(priority: Priority) -> String {
    text::short_name(priority.as_str_name(), "PRIORITY_").to_lowercase()
}

fn standing(execution: &Execution) -> String {
    let state = state_name(execution.state());
    let reason = reason_name(execution.reason()).map(|reason| format!(" ({reason})"));
    let since = execution.state_since.as_ref().and_then(text::timestamp);
    let since = since.map(|since| format!(" since {since}"));
    let cancelling = if execution.cancel_requested {
        "; cancelled, its worker is told to stop"
    } else {
        ""
    };
    format!(
        "{state}{}{}{cancelling}",
        reason.unwrap_or_default(),
        since.unwrap_or_default()
    )
}

fn attempts(execution: &Execution) -> Vec<Vec<String>> {
    let head = [
        "ATTEMPT",
        "RESULT",
        "WORKER",
        "QUEUED",
        "DISPATCHING",
        "RUNNING",
        "REPORTING",
        "ERROR",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(execution.attempts.iter().map(|attempt| {
        let error = match attempt.error_class.as_str() {
            "" => attempt.error_message.clone(),
            class => format!("{class}: {}", attempt.error_message),
        };
        vec![
            format!("{}/{}", attempt.number, execution.max_attempts),
            result_name(attempt).unwrap_or("running").to_owned(),
            attempt.worker_id.clone(),
            text::proto_duration(attempt.queued),
            text::proto_duration(attempt.dispatching),
            text::proto_duration(attempt.running),
            text::proto_duration(attempt.reporting),
            text::one_line(&error, 200),
        ]
    }));
    rows
}

fn fact(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![name.to_owned(), value.into()]
}

fn labels(execution: &Execution) -> String {
    let sorted: BTreeMap<_, _> = execution.labels.iter().collect();
    let pairs: Vec<_> = sorted
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(" ")
}

fn result_name(attempt: &Attempt) -> Option<&'static str> {
    let result = attempt.result();
    let is_over = result != proto::v1::AttemptResult::Unspecified;
    is_over.then(|| text::short_name(result.as_str_name(), "ATTEMPT_RESULT_"))
}

/// JSON where it is JSON, text where it is text, else hex digits; `None` where it is empty.
fn output(execution: &Execution) -> Option<Value> {
    let bytes = &execution.output;
    if bytes.is_empty() {
        return None;
    }
    if execution
        .output_content_type
        .starts_with("application/json")
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return Some(value);
    }
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    Some(Value::String(text.unwrap_or_else(|_| hex::encode(bytes))))
}

fn millis(duration: Option<prost_types::Duration>) -> Option<f64> {
    let duration = std::time::Duration::try_from(duration?).ok()?;
    Some(duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution() -> Execution {
        let attempt = Attempt {
            number: 1,
            worker_id: "worker-1".to_owned(),
            result: proto::v1::AttemptResult::Success as i32,
            running: Some(prost_types::Duration {
                seconds: 0,
                nanos: 12_400_000,
            }),
            ..Attempt::default()
        };
        Execution {
            execution_id: "id-1".to_owned(),
            job_type: "mail.send".to_owned(),
            queue: "default".to_owned(),
            state: ExecutionState::Succeeded as i32,
            correlation_id: "id-1".to_owned(),
            output: r#"{"sent":1}"#.into(),
            output_content_type: "application/json".to_owned(),
            max_attempts: 5,
            attempts: vec![attempt],
            ..Execution::default()
        }
    }

    #[test]
    fn json_holds_plain_names_and_the_outputs_own_json() {
        let execution = execution();
        let value = serde_json::to_value(ExecutionView::from(&execution)).unwrap();
        assert_eq!(value["state"], "SUCCEEDED");
        assert_eq!(value["output"]["sent"], 1);
        assert_eq!(value["attempts"][0]["running_ms"], 12.4);
        assert_eq!(value.get("reason"), None);
    }

    #[test]
    fn what_was_saved_and_counted_is_shown_where_there_is_any() {
        let progress = proto::v1::Progress {
            done: 3,
            total: 4,
            note: "counting".to_owned(),
        };
        let mut execution = execution();
        assert!(!describe(&execution).contains("checkpoint"));
        execution.checkpoint = Some(proto::v1::Checkpoint {
            fence: 7,
            number: 1,
            size: 2,
            progress: Some(progress.clone()),
            ..proto::v1::Checkpoint::default()
        });
        execution.progress = Some(progress);
        execution.attempts[0].items = Some(proto::v1::Items {
            success: 3,
            failed: 1,
            skipped: 0,
        });
        let text = describe(&execution);
        for line in [
            "3 of 4 (75 %), counting",
            "2 bytes at ",
            "3 success, 1 failed, 0 skipped",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let value = serde_json::to_value(ExecutionView::from(&execution)).unwrap();
        assert_eq!(value["checkpoint"]["size"], 2);
        assert_eq!(value["attempts"][0]["items"]["failed"], 1);
        assert_eq!(value["progress"]["done"], 3);
    }

    #[test]
    fn text_shows_each_attempt_on_a_line() {
        let text = describe(&execution());
        assert!(text.contains("state      SUCCEEDED\n"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.starts_with("1/5") && line.contains("12.4 ms")),
            "{text}"
        );
    }
}
