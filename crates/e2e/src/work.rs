//! Short ways to say what is handed in.

use std::time::Duration;

use proto::v1::{RetryPolicy, Submission};
use serde_json::Value;

/// An execution of this type with a JSON payload; all else by default.
#[must_use]
pub fn submission(job_type: &str, payload: &Value) -> Submission {
    Submission {
        job_type: job_type.to_owned(),
        payload: payload.to_string().into(),
        content_type: "application/json".to_owned(),
        ..Submission::default()
    }
}

/// So many attempts in all; the back-off begins with this, without jitter.
#[must_use]
pub fn retry_policy(max_attempts: u32, initial_backoff: Duration) -> RetryPolicy {
    RetryPolicy {
        max_attempts: Some(max_attempts),
        initial_backoff: prost_types::Duration::try_from(initial_backoff).ok(),
        jitter: Some(false),
        ..RetryPolicy::default()
    }
}
