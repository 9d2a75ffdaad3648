use std::process::Stdio;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use proto::v1::{ExecutionState, ExecutionSummary, ListExecutionsResponse, Reason};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::scripted_api::{ID, KEY, ScriptedApi};
use crate::{code, stderr, stdout, values, watchwork};

fn summary(state: ExecutionState) -> ExecutionSummary {
    ExecutionSummary {
        execution_id: ID.to_owned(),
        job_type: "mail.send".to_owned(),
        queue: "default".to_owned(),
        state: state as i32,
        ..ExecutionSummary::default()
    }
}

fn page(executions: usize, next_page_token: &str) -> ListExecutionsResponse {
    ListExecutionsResponse {
        executions: vec![summary(ExecutionState::Queued); executions],
        next_page_token: next_page_token.to_owned(),
    }
}

/// One that waits for its time, and one that failed three times.
fn scheduled_and_failed() -> ListExecutionsResponse {
    let submitted = SystemTime::now() - Duration::from_secs(5 * 3_600 + 60);
    let failed = ExecutionSummary {
        attempt: 3,
        reason: Reason::AttemptsExhausted as i32,
        submitted_at: Some(Timestamp::from(submitted)),
        due_at: Some(Timestamp {
            seconds: 1_790_000_000,
            nanos: 0,
        }),
        labels: [("team".to_owned(), "x".to_owned())].into(),
        ..summary(ExecutionState::DeadLettered)
    };
    ListExecutionsResponse {
        executions: vec![summary(ExecutionState::Scheduled), failed],
        next_page_token: String::new(),
    }
}

/// A table's line, in cells.
fn cells(line: &str) -> Vec<&str> {
    let cells = line.split("  ").map(str::trim);
    cells.filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn a_list_is_a_table_for_people() {
    let api = ScriptedApi::start().await;
    api.lists(scheduled_and_failed());
    let listed = watchwork(&api, &["list"]).await;
    assert_eq!((code(&listed), stderr(&listed)), (0, String::new()));
    let text = stdout(&listed);
    let rows: Vec<Vec<&str>> = text.lines().map(cells).collect();
    let head = [
        "EXECUTION",
        "TYPE",
        "QUEUE",
        "STATE",
        "REASON",
        "ATTEMPT",
        "AGE",
        "DUE",
    ];
    assert_eq!(rows[0], head);
    assert_eq!(
        rows[1],
        [ID, "mail.send", "default", "SCHEDULED", "-", "-", "-", "-"]
    );
    let due = "2026-09-21T14:13:20Z";
    assert_eq!(
        rows[2][3..],
        ["DEAD_LETTERED", "ATTEMPTS_EXHAUSTED", "3", "5 h 01 m", due]
    );
    assert_eq!(api.listed()[0].page_size, 50);
}

#[tokio::test]
async fn an_empty_list_says_so_to_people_and_is_no_line_for_programs() {
    let api = ScriptedApi::start().await;
    api.lists(page(0, ""));
    let ended = watchwork(&api, &["list"]).await;
    assert_eq!(code(&ended), 0);
    assert_eq!(stdout(&ended).lines().count(), 1, "the table's head");
    assert_eq!(stderr(&ended), "watchwork: there is none\n");

    api.lists(page(0, ""));
    let ended = watchwork(&api, &["list", "-o", "json"]).await;
    assert_eq!(
        (stdout(&ended), stderr(&ended)),
        (String::new(), String::new())
    );
}

#[tokio::test]
async fn a_list_is_a_value_a_line_for_programs() {
    let api = ScriptedApi::start().await;
    api.lists(scheduled_and_failed());
    let values = values(&watchwork(&api, &["list", "-o", "json"]).await);
    assert_eq!(values.len(), 2);
    assert_eq!(values[0]["state"], "SCHEDULED");
    assert_eq!(values[0].get("reason"), None);
    assert_eq!(values[1]["reason"], "ATTEMPTS_EXHAUSTED");
    assert_eq!(values[1]["attempt"], 3);
    assert_eq!(values[1]["labels"]["team"], "x");
    assert_eq!(values[1]["due_at"], "2026-09-21T14:13:20.000000Z");
}

#[tokio::test]
async fn a_filter_is_sent_as_it_was_said() {
    let api = ScriptedApi::start().await;
    let args = "list --queue mail --type App/Send --state queued --state DEAD_LETTERED --limit 7";
    let args: Vec<_> = args.split(' ').collect();
    assert_eq!(code(&watchwork(&api, &args).await), 0);
    let asked = &api.listed()[0];
    assert_eq!(
        (asked.queue.as_str(), asked.job_type.as_str()),
        ("mail", "App/Send")
    );
    assert_eq!(
        asked.states,
        [
            ExecutionState::Queued as i32,
            ExecutionState::DeadLettered as i32
        ]
    );
    assert_eq!((asked.page_size, asked.page_token.as_str()), (7, ""));
    for wrong in [["--state", "gone"], ["--limit", "0"]] {
        let args = [&["list"][..], &wrong].concat();
        assert_eq!(code(&watchwork(&api, &args).await), 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_list_goes_on_to_its_limit_and_says_when_more_follow() {
    let api = ScriptedApi::start().await;
    api.lists(page(500, "one"));
    api.lists(page(0, "two"));
    api.lists(page(100, "three"));
    let listed = watchwork(&api, &["list", "--limit", "600"]).await;
    assert_eq!(code(&listed), 0);
    assert_eq!(stdout(&listed).lines().count(), 601);
    assert!(
        stderr(&listed).contains("more follow"),
        "{}",
        stderr(&listed)
    );
    let listed = api.listed();
    let asked: Vec<_> = listed
        .iter()
        .map(|list| (list.page_size, list.page_token.as_str()))
        .collect();
    assert_eq!(asked, [(500, ""), (100, "one"), (100, "two")]);
}

#[tokio::test]
async fn all_means_all() {
    let api = ScriptedApi::start().await;
    api.lists(page(500, "one"));
    api.lists(page(500, "two"));
    api.lists(page(1, ""));
    let listed = watchwork(&api, &["list", "--all", "-o", "json"]).await;
    assert_eq!((code(&listed), stderr(&listed)), (0, String::new()));
    assert_eq!(values(&listed).len(), 1_001);
    let both = ["list", "--all", "--limit", "7"];
    assert_eq!(code(&watchwork(&api, &both).await), 2);
}

#[tokio::test]
async fn a_watched_list_is_shown_again_and_a_pipe_gets_no_terminals_codes() {
    let api = ScriptedApi::start().await;
    api.lists(page(1, ""));
    let mut watching = Command::new(env!("CARGO_BIN_EXE_watchwork"))
        .args(["list", "--watch"])
        .env("WATCHWORK_ADDRESS", &api.address)
        .env("WATCHWORK_KEY", KEY)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let heads = async {
        let mut heads = 0;
        while heads < 2 {
            let line = lines.next_line().await.unwrap().unwrap();
            assert!(!line.contains('\x1b'), "{line:?}");
            heads += usize::from(line.starts_with("EXECUTION"));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heads)
        .await
        .expect("it takes too long");
    let json = ["list", "--watch", "-o", "json"];
    assert_eq!(code(&watchwork(&api, &json).await), 2);
}

#[tokio::test]
async fn a_list_that_cannot_be_had_is_an_error_and_no_empty_table() {
    let listed = watchwork(&ScriptedApi::gone(), &["list"]).await;
    assert_eq!((code(&listed), stdout(&listed)), (4, String::new()));
}
