//! The real binary against a scripted API and a real trace receiver.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod scripted_api;
mod traces;

use std::process::{Output, Stdio};
use std::time::Duration;

use proto::v1::{AttemptResult, ExecutionState};
use tokio::process::Command;
use tonic::Status;

use crate::scripted_api::{ID, KEY, ScriptedApi, attempt, change, execution};

/// Runs the binary against `api`.
pub(crate) async fn watchwork(api: &ScriptedApi, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watchwork"));
    command
        .args(args)
        .env("WATCHWORK_ADDRESS", &api.address)
        .env("WATCHWORK_KEY", KEY);
    command
        .env_remove("WATCHWORK_TRACES")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(20), command.output());
    ended.await.expect("it takes too long").unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn submit_sends_what_was_said_and_prints_the_id() {
    let api = ScriptedApi::start().await;
    let args = [
        "submit",
        "mail.send",
        "--queue",
        "checks",
        "--priority",
        "high",
        "--payload",
        "{\"a\":1}",
        "--label",
        "team=x",
        "--header",
        "X-A=b",
        "--correlation-id",
        "c-1",
        "--max-attempts",
        "3",
        "--timeout",
        "1500ms",
    ];
    let ended = watchwork(&api, &args).await;
    assert_eq!(
        (code(&ended), stdout(&ended)),
        (0, format!("{ID}\n")),
        "{}",
        stderr(&ended)
    );
    let sent = api.submitted();
    assert_eq!(
        (sent.job_type.as_str(), sent.queue.as_str()),
        ("mail.send", "checks")
    );
    assert_eq!(
        (sent.priority, sent.payload.as_ref()),
        (2, b"{\"a\":1}".as_slice())
    );
    assert_eq!(sent.content_type, "application/json");
    assert_eq!((&*sent.labels["team"], &*sent.headers["X-A"]), ("x", "b"));
    assert_eq!(sent.correlation_id, "c-1");
    assert_eq!(sent.retry_policy.unwrap().max_attempts, Some(3));
    let timeout = sent.timeout.unwrap();
    assert_eq!((timeout.seconds, timeout.nanos), (1, 500_000_000));
}

#[tokio::test]
async fn exit_codes_say_what_happened() {
    let api = ScriptedApi::start().await;
    api.says(execution(ExecutionState::Running, vec![]));
    assert_eq!(code(&watchwork(&api, &["get", ID]).await), 0);
    assert_eq!(code(&watchwork(&api, &["get"]).await), 2);
    assert_eq!(
        code(&watchwork(&api, &["submit", "t", "--payload", "{"]).await),
        2
    );
    for (status, expected) in [
        (Status::not_found("no such execution"), 3),
        (Status::invalid_argument("no id"), 2),
        (Status::unavailable("no owner"), 4),
        (Status::permission_denied("wrong scope"), 1),
    ] {
        let message = status.message().to_owned();
        api.fails_with(status);
        let ended = watchwork(&api, &["get", ID]).await;
        assert_eq!(
            (code(&ended), stderr(&ended)),
            (expected, format!("watchwork: {message}\n"))
        );
    }
    let gone = ScriptedApi::gone();
    assert_eq!(code(&watchwork(&gone, &["get", ID]).await), 4);
}

#[tokio::test]
async fn submit_wait_shows_the_end_and_fails_with_a_bad_one() {
    let api = ScriptedApi::start().await;
    let attempts = vec![
        attempt(1, AttemptResult::Error),
        attempt(2, AttemptResult::Success),
    ];
    api.says(execution(ExecutionState::Succeeded, attempts));
    api.plays(vec![Ok(change(ExecutionState::Succeeded))]);
    let good = watchwork(&api, &["submit", "t", "--wait"]).await;
    assert_eq!(code(&good), 0, "{}", stderr(&good));
    assert!(stdout(&good).contains("SUCCEEDED") && stdout(&good).contains("2/5"));

    api.says(execution(
        ExecutionState::DeadLettered,
        vec![attempt(1, AttemptResult::Error)],
    ));
    api.plays(vec![Ok(change(ExecutionState::DeadLettered))]);
    let bad = watchwork(&api, &["submit", "t", "--wait", "-o", "json"]).await;
    assert_eq!(code(&bad), 5);
    let value: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!(
        (&value["execution_id"], &value["state"]),
        (&ID.into(), &"DEAD_LETTERED".into())
    );
}

#[tokio::test]
async fn watch_goes_on_after_a_gateway_that_went_away() {
    let api = ScriptedApi::start().await;
    let running = || Ok(change(ExecutionState::Running));
    api.plays(vec![running(), Err(Status::unavailable("shutting down"))]);
    api.plays(vec![running(), Ok(change(ExecutionState::Failed))]);
    let ended = watchwork(&api, &["watch", ID, "-o", "json"]).await;
    assert_eq!(code(&ended), 5, "{}", stderr(&ended));
    let states: Vec<_> = stdout(&ended)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["state"].clone())
        .collect();
    assert_eq!(states, ["RUNNING", "FAILED"]);
}
