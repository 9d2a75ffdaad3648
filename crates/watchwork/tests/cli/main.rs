//! The real binary against a scripted API and a real trace receiver.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod cancelling;
mod listing;
mod revising;
mod scripted_api;
mod submitting;
mod traces;
mod workers;

use std::process::{Output, Stdio};
use std::time::Duration;

use prost_types::Timestamp;
use proto::v1::ExecutionState;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tonic::Status;

use crate::scripted_api::{ID, KEY, ScriptedApi, change, execution};

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

/// Standard output's JSON values, one a line.
pub(crate) fn values(output: &Output) -> Vec<serde_json::Value> {
    let lines = stdout(output);
    let parse = |line| serde_json::from_str(line).unwrap();
    lines.lines().map(parse).collect()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Takes a call, and goes away without a word.
pub(crate) async fn hear_out(listener: &TcpListener) {
    let (mut connection, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 4096];
    for _ in 0..2 {
        let heard = connection.read(&mut bytes).await;
        heard.unwrap();
    }
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
async fn an_answer_without_a_word_is_taken_for_one_of_another_server() {
    let api = ScriptedApi::start().await;
    api.fails_with(Status::new(tonic::Code::Unimplemented, ""));
    let ended = watchwork(&api, &["get", ID]).await;
    let told = stderr(&ended);
    assert!(
        told.contains(&api.address) && told.contains("gateway"),
        "{told}"
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
    let states: Vec<_> = values(&ended)
        .iter()
        .map(|value| value["state"].clone())
        .collect();
    assert_eq!(states, ["RUNNING", "FAILED"]);
}

#[tokio::test]
async fn watch_goes_on_after_a_gateway_that_went_away_before_its_first_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = ScriptedApi::at(listener.local_addr().unwrap());
    api.plays(vec![Ok(change(ExecutionState::Failed))]);
    let ended = tokio::join!(watchwork(&api, &["watch", ID, "-o", "json"]), async {
        hear_out(&listener).await;
        api.serve(listener);
    })
    .0;
    assert_eq!(code(&ended), 5, "{}", stderr(&ended));
    assert_eq!(values(&ended).len(), 1, "{}", stderr(&ended));
}

#[tokio::test]
async fn watch_ends_badly_with_a_cancelled_execution() {
    let api = ScriptedApi::start().await;
    api.plays(vec![Ok(change(ExecutionState::Cancelled))]);
    let ended = watchwork(&api, &["watch", ID]).await;
    assert_eq!(code(&ended), 5, "{}", stderr(&ended));
    assert!(stdout(&ended).contains("CANCELLED"));
}

#[tokio::test]
async fn get_shows_when_it_is_due_and_that_it_is_being_cancelled() {
    let api = ScriptedApi::start().await;
    let mut scheduled = execution(ExecutionState::Scheduled, vec![]);
    scheduled.due_at = Some(Timestamp {
        seconds: 1_790_000_000,
        nanos: 0,
    });
    api.says(scheduled);
    let text = stdout(&watchwork(&api, &["get", ID]).await);
    assert!(text.contains("state      SCHEDULED\n"), "{text}");
    assert!(
        text.contains("due        2026-09-21T14:13:20.000000Z\n"),
        "{text}"
    );
    let value = &values(&watchwork(&api, &["get", ID, "-o", "json"]).await)[0];
    assert_eq!(value["due_at"], "2026-09-21T14:13:20.000000Z");
    assert_eq!(value["cancel_requested"], false);

    let mut running = execution(ExecutionState::Running, vec![]);
    running.cancel_requested = true;
    api.says(running);
    let text = stdout(&watchwork(&api, &["get", ID]).await);
    assert!(text.contains("its worker is told to stop"), "{text}");
    let value = &values(&watchwork(&api, &["get", ID, "-o", "json"]).await)[0];
    assert_eq!(value["cancel_requested"], true);
    assert_eq!(value.get("due_at"), None);
}
