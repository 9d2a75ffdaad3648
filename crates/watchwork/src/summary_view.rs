//! An execution in a list, as it is shown: as JSON with plain names, and as a row of a table.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proto::v1::ExecutionSummary;
use serde::Serialize;

use crate::execution_view::{priority_name, reason_name, state_name};
use crate::text;

/// What the columns of [`row`] are.
pub(crate) const HEAD: [&str; 8] = [
    "EXECUTION",
    "TYPE",
    "QUEUE",
    "STATE",
    "REASON",
    "ATTEMPT",
    "AGE",
    "DUE",
];

/// An execution for programs, with the names that `get` uses.
#[derive(Serialize)]
pub(crate) struct SummaryView<'a> {
    execution_id: &'a str,
    job_type: &'a str,
    queue: &'a str,
    priority: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    attempt: u32,
    labels: BTreeMap<&'a str, &'a str>,
    correlation_id: &'a str,
    submitted_at: Option<String>,
    state_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
}

impl<'a> From<&'a ExecutionSummary> for SummaryView<'a> {
    fn from(summary: &'a ExecutionSummary) -> Self {
        let labels = summary.labels.iter();
        Self {
            execution_id: &summary.execution_id,
            job_type: &summary.job_type,
            queue: &summary.queue,
            priority: priority_name(summary.priority()),
            state: state_name(summary.state()),
            reason: reason_name(summary.reason()),
            attempt: summary.attempt,
            labels: labels
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            correlation_id: &summary.correlation_id,
            submitted_at: summary.submitted_at.as_ref().and_then(text::timestamp),
            state_since: summary.state_since.as_ref().and_then(text::timestamp),
            due_at: summary.due_at.as_ref().and_then(text::timestamp),
        }
    }
}

/// An execution for people, as it looks `now`.
pub(crate) fn row(summary: &ExecutionSummary, now: SystemTime) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let attempt = (summary.attempt > 0).then(|| summary.attempt.to_string());
    let due = summary.due_at.as_ref().and_then(text::short_timestamp);
    vec![
        summary.execution_id.clone(),
        summary.job_type.clone(),
        summary.queue.clone(),
        state_name(summary.state()).to_owned(),
        or_dash(reason_name(summary.reason()).map(str::to_owned)),
        or_dash(attempt),
        or_dash(age(summary, now)),
        or_dash(due),
    ]
}

/// The database's clock may be a little ahead of this one.
fn age(summary: &ExecutionSummary, now: SystemTime) -> Option<String> {
    let submitted = SystemTime::try_from(summary.submitted_at?).ok()?;
    Some(text::age(now.duration_since(submitted).unwrap_or_default()))
}
