use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;

use proto::v1::{AttemptResult, BackoffGrowth, ExecutionState};

use crate::scripted_api::{ID, KNOWN_KEY, ScriptedApi, attempt, change, execution};
use crate::{code, hear_out, stderr, stdout, values, watchwork};

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
        "--max-lost",
        "0",
        "--backoff",
        "linear",
        "--initial-backoff",
        "5s",
        "--total-timeout",
        "1h",
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
    let policy = sent.retry_policy.unwrap();
    assert_eq!((policy.max_attempts, policy.max_lost), (Some(3), Some(0)));
    assert_eq!(policy.growth(), BackoffGrowth::Linear);
    let seconds = [
        policy.initial_backoff,
        policy.total_timeout,
        policy.max_backoff,
    ];
    let seconds = seconds.map(|duration| duration.map(|duration| duration.seconds));
    assert_eq!(seconds, [Some(5), Some(3_600), None]);
    let timeout = sent.timeout.unwrap();
    assert_eq!((timeout.seconds, timeout.nanos), (1, 500_000_000));
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
async fn who_submits_again_is_told_beside_the_id() {
    let api = ScriptedApi::start().await;
    let submit = ["submit", "t", "--idempotency-key", KNOWN_KEY];
    let again = watchwork(&api, &submit).await;
    assert_eq!((code(&again), stdout(&again)), (0, format!("{ID}\n")));
    assert!(stderr(&again).contains("submitted before"));
    assert_eq!(api.submitted().idempotency_key, KNOWN_KEY);

    let json = [&submit[..], &["-o", "json"]].concat();
    let again = watchwork(&api, &json).await;
    assert_eq!(values(&again)[0]["duplicate"], true);
    let first = watchwork(
        &api,
        &["submit", "t", "--idempotency-key", "new", "-o", "json"],
    )
    .await;
    assert_eq!(values(&first)[0]["duplicate"], false);
    let first = watchwork(&api, &["submit", "t", "--idempotency-key", "new"]).await;
    assert_eq!(stderr(&first), "");
}

#[tokio::test]
async fn a_due_time_is_a_point_or_a_while_from_now() {
    let api = ScriptedApi::start().await;
    let at = ["submit", "t", "--at", "2026-09-21T16:13:20.5+02:00"];
    assert_eq!(code(&watchwork(&api, &at).await), 0);
    let due = api.submitted().due_at.unwrap();
    assert_eq!((due.seconds, due.nanos), (1_790_000_000, 500_000_000));

    let earliest = SystemTime::now() + Duration::from_secs(5_400);
    let delayed = ["submit", "t", "--in", "1h 30m"];
    assert_eq!(code(&watchwork(&api, &delayed).await), 0);
    let latest = SystemTime::now() + Duration::from_secs(5_400);
    let due = SystemTime::try_from(api.submitted().due_at.unwrap()).unwrap();
    assert!((earliest..=latest).contains(&due), "{due:?}");

    let now = ["submit", "t"];
    assert_eq!(code(&watchwork(&api, &now).await), 0);
    assert_eq!(api.submitted().due_at, None);
    let endless = ["submit", "t", "--in", "584000000000y"];
    assert_eq!(code(&watchwork(&api, &endless).await), 2);
}

#[tokio::test]
async fn a_name_that_is_given_twice_is_refused() {
    let api = ScriptedApi::start().await;
    for option in ["--label", "--header"] {
        let twice = ["submit", "t", option, "a=1", option, "a=2"];
        let refused = watchwork(&api, &twice).await;
        assert_eq!(code(&refused), 2);
        let told = stderr(&refused);
        assert!(
            told.contains(&format!("{option} a is given twice")),
            "{told}"
        );
    }
}

#[tokio::test]
async fn who_reaches_nobody_is_told_that_nothing_was_handed_in() {
    let api = ScriptedApi::gone();
    let refused = watchwork(&api, &["submit", "mail.send"]).await;
    assert_eq!((code(&refused), stdout(&refused)), (4, String::new()));
    let told = stderr(&refused);
    assert!(told.contains(&api.address), "{told}");
    assert!(told.contains("nothing was handed in"), "{told}");
}

#[tokio::test]
async fn whose_answer_was_lost_is_told_that_the_work_may_have_been_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = ScriptedApi::at(listener.local_addr().unwrap());
    tokio::spawn(async move { hear_out(&listener).await });
    let lost = watchwork(&api, &["submit", "mail.send"]).await;
    assert_eq!((code(&lost), stdout(&lost)), (4, String::new()));
    let told = stderr(&lost);
    assert!(told.contains(&api.address), "{told}");
    assert!(told.contains("may or may not have been taken"), "{told}");
    assert!(told.contains("idempotency key"), "{told}");
}
