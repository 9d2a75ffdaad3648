use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use proto::v1::{BackoffGrowth, ExecutionState, Priority, RetryPolicy, Submission};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::args::{RetryArgs, SubmitArgs};
use crate::client::Client;
use crate::execution_view::state_name;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::verbs::get::show;

/// Hands in one execution, prints its id, and waits for its end if asked to.
pub(crate) async fn submit(
    output: &Output,
    client: &Client,
    args: SubmitArgs,
) -> Result<(), Failure> {
    let waits = args.wait;
    let stored = client.hand_in(submission(args)?).await?;
    let (id, duplicate) = (stored.execution_id, stored.duplicate);
    match (waits, output.is_json()) {
        (false, true) => {
            let value = json!({"execution_id": id, "duplicate": duplicate});
            return Ok(output.json(&value)?);
        }
        (_, false) => output.text(&format!("{id}\n"))?,
        // The one JSON value of a waiting call is the execution.
        (true, true) => {}
    }
    // Standard output holds the id alone, for scripts.
    if duplicate {
        eprintln!(
            "watchwork: {id} was submitted before, with this idempotency key: nothing was added"
        );
    }
    if !waits {
        return Ok(());
    }
    let execution = client.wait_for(&id).await?;
    show(output, &execution)?;
    match execution.state() {
        ExecutionState::Succeeded => Ok(()),
        bad => Err(Failure::new(
            Kind::BadEnd,
            format!("{id} ended as {}", state_name(bad)),
        )),
    }
}

fn submission(args: SubmitArgs) -> Result<Submission, Failure> {
    let (payload, content_type) = args
        .payload
        .as_deref()
        .map_or(Ok(Default::default()), payload)?;
    let retry_policy = retry_policy(&args.retries)?;
    let due_at = due_at(&args)?;
    let content_type = args.content_type.unwrap_or_else(|| content_type.to_owned());
    let timeout = args
        .timeout
        .map(prost_types::Duration::try_from)
        .transpose();
    Ok(Submission {
        job_type: args.job_type,
        queue: args.queue,
        priority: Priority::from(args.priority) as i32,
        payload: payload.into(),
        content_type,
        headers: by_name("--header", args.headers)?,
        labels: by_name("--label", args.labels)?,
        correlation_id: args.correlation_id.unwrap_or_default(),
        retry_policy,
        timeout: timeout.map_err(|_| Failure::usage("--timeout is too long"))?,
        idempotency_key: args.idempotency_key.unwrap_or_default(),
        due_at,
    })
}

/// What is said of it; nothing, if nothing is.
fn retry_policy(args: &RetryArgs) -> Result<Option<RetryPolicy>, Failure> {
    let duration = |option: &str, given: Option<Duration>| {
        let given = given.map(prost_types::Duration::try_from).transpose();
        given.map_err(|_| Failure::usage(format!("{option} is too long")))
    };
    let policy = RetryPolicy {
        max_attempts: args.max_attempts,
        max_lost: args.max_lost,
        growth: args
            .backoff
            .map_or(0, |growth| BackoffGrowth::from(growth) as i32),
        initial_backoff: duration("--initial-backoff", args.initial_backoff)?,
        max_backoff: duration("--max-backoff", args.max_backoff)?,
        total_timeout: duration("--total-timeout", args.total_timeout)?,
        multiplier: args.multiplier,
        jitter: args.no_jitter.then_some(false),
    };
    Ok((policy != RetryPolicy::default()).then_some(policy))
}

fn by_name(option: &str, pairs: Vec<(String, String)>) -> Result<HashMap<String, String>, Failure> {
    let mut named = HashMap::new();
    for (name, value) in pairs {
        if named.contains_key(&name) {
            let message = format!("{option} {name} is given twice");
            return Err(Failure::usage(message));
        }
        named.insert(name, value);
    }
    Ok(named)
}

fn due_at(args: &SubmitArgs) -> Result<Option<Timestamp>, Failure> {
    let Some(delay) = args.delay else {
        return Ok(args.at);
    };
    let due = SystemTime::now().checked_add(delay);
    let due = due.ok_or_else(|| Failure::usage("--in is too long"))?;
    Ok(Some(Timestamp::from(due)))
}

/// The payload and its media type, from `JSON`, `@file` or `-`.
fn payload(text: &str) -> Result<(Vec<u8>, &'static str), Failure> {
    let bytes = match text.strip_prefix('@') {
        Some(path) => fs::read(path).map_err(|error| {
            Failure::usage(format!("can't read the payload from {path}: {error}"))
        })?,
        None if text == "-" => read_standard_input()?,
        None => text.as_bytes().to_vec(),
    };
    // By its grammar: a number may be too large for any type, and a value nested too deeply to be read into one.
    let is_json = serde_json::from_slice::<IgnoredAny>(&bytes).is_ok();
    let is_literal = text != "-" && !text.starts_with('@');
    if is_literal && !is_json {
        let hint = "--payload must be JSON; anything else goes by @file or - (standard input)";
        return Err(Failure::usage(hint));
    }
    Ok((
        bytes,
        if is_json {
            "application/json"
        } else {
            "application/octet-stream"
        },
    ))
}

fn read_standard_input() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| Failure::failed("can't read the payload from standard input", error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_payload_is_json_and_a_file_is_anything() {
        assert_eq!(
            payload(r#"{"a":1}"#).unwrap(),
            (br#"{"a":1}"#.to_vec(), "application/json")
        );
        assert_eq!(payload("{a}").unwrap_err().kind, Kind::Usage);
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for odd in [r#""\ud800""#, "1e400000", &deep] {
            let (bytes, content_type) = payload(odd).unwrap();
            assert_eq!((bytes.len(), content_type), (odd.len(), "application/json"));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [0xff, 0]).unwrap();
        let (bytes, content_type) = payload(&format!("@{}", file.path().display())).unwrap();
        assert_eq!(
            (bytes.as_slice(), content_type),
            (&[0xff, 0][..], "application/octet-stream")
        );
        assert_eq!(payload("@/nowhere").unwrap_err().kind, Kind::Usage);
    }
}
