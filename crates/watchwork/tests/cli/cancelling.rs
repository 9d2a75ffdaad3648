use proto::v1::ExecutionState;
use serde_json::json;
use tokio::net::TcpListener;
use tonic::Status;

use crate::scripted_api::{ID, ScriptedApi, change, execution};
use crate::{code, hear_out, stderr, stdout, values, watchwork};

const OTHER_ID: &str = "0199c8a1-7d2e-8003-8000-0000000c3a92";

#[tokio::test]
async fn each_cancellation_says_on_a_line_what_came_of_it() {
    let api = ScriptedApi::start().await;
    api.cancels(ID, Ok(ExecutionState::Cancelled));
    api.cancels(OTHER_ID, Ok(ExecutionState::Running));
    let ended = watchwork(&api, &["cancel", ID, OTHER_ID]).await;
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    let told = format!(
        "{ID}  cancelled\n\
         {OTHER_ID}  its worker is told to stop; watch it with `watchwork watch {OTHER_ID}`\n"
    );
    assert_eq!(stdout(&ended), told);

    api.cancels(ID, Ok(ExecutionState::Running));
    let ended = watchwork(&api, &["cancel", ID, "-o", "json"]).await;
    let value = json!({"execution_id": ID, "state": "RUNNING"});
    assert_eq!(values(&ended), [value]);
}

#[tokio::test]
async fn what_is_over_already_says_how_and_the_others_are_cancelled_all_the_same() {
    let api = ScriptedApi::start().await;
    let refused = || Err(Status::failed_precondition("too late"));
    api.cancels(ID, refused());
    api.cancels(OTHER_ID, Ok(ExecutionState::Cancelled));
    api.says(execution(ExecutionState::Succeeded, vec![]));
    let ended = watchwork(&api, &["cancel", ID, OTHER_ID]).await;
    assert_eq!(code(&ended), 1);
    assert_eq!(
        stderr(&ended),
        format!("watchwork: {ID}: it is SUCCEEDED already\n")
    );
    assert_eq!(stdout(&ended), format!("{OTHER_ID}  cancelled\n"));

    // A key that may not read hears the API's own words.
    api.cancels(ID, refused());
    api.fails_with(Status::permission_denied("wrong scope"));
    let ended = watchwork(&api, &["cancel", ID]).await;
    assert_eq!(stderr(&ended), format!("watchwork: {ID}: too late\n"));

    api.cancels(ID, refused());
    let ended = watchwork(&api, &["cancel", ID, "-o", "json"]).await;
    let value = json!({
        "execution_id": ID, "state": "SUCCEEDED", "error": "it is SUCCEEDED already",
    });
    assert_eq!((code(&ended), values(&ended)), (1, vec![value]));
}

#[tokio::test]
async fn exit_codes_say_why_nothing_was_cancelled() {
    let api = ScriptedApi::start().await;
    for (status, expected) in [
        (Status::not_found("no such execution"), 3),
        (Status::invalid_argument("no id"), 2),
        (Status::unavailable("no owner"), 4),
        (Status::permission_denied("wrong scope"), 1),
    ] {
        api.cancels(ID, Err(status));
        assert_eq!(code(&watchwork(&api, &["cancel", ID]).await), expected);
    }
    // One code for several kinds.
    api.cancels(ID, Err(Status::not_found("no such execution")));
    api.cancels(OTHER_ID, Err(Status::unavailable("no owner")));
    assert_eq!(code(&watchwork(&api, &["cancel", ID, OTHER_ID]).await), 1);
    assert_eq!(code(&watchwork(&api, &["cancel"]).await), 2);
}

#[tokio::test]
async fn whose_answer_was_lost_is_told_that_it_may_be_cancelled_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = ScriptedApi::at(listener.local_addr().unwrap());
    tokio::spawn(async move { hear_out(&listener).await });
    let lost = watchwork(&api, &["cancel", ID]).await;
    assert_eq!((code(&lost), stdout(&lost)), (4, String::new()));
    let told = stderr(&lost);
    assert!(told.contains(&api.address), "{told}");
    assert!(told.contains("it may be cancelled all the same"), "{told}");
}

#[tokio::test]
async fn cancel_wait_follows_what_runs_to_its_end() {
    let api = ScriptedApi::start().await;
    api.cancels(OTHER_ID, Ok(ExecutionState::Cancelled));
    api.cancels(ID, Ok(ExecutionState::Running));
    api.plays(vec![
        Ok(change(ExecutionState::Running)),
        Ok(change(ExecutionState::Cancelled)),
    ]);
    let ended = watchwork(&api, &["cancel", OTHER_ID, ID, "--wait"]).await;
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    let told =
        format!("{OTHER_ID}  cancelled\n{ID}  its worker is told to stop\n{ID}  cancelled\n");
    assert_eq!(stdout(&ended), told);
    assert_eq!(api.watched(), [ID], "what is over isn't watched");

    api.cancels(ID, Ok(ExecutionState::Running));
    api.plays(vec![Ok(change(ExecutionState::Succeeded))]);
    let ended = watchwork(&api, &["cancel", ID, "--wait", "-o", "json"]).await;
    let value = json!({"execution_id": ID, "state": "SUCCEEDED"});
    assert_eq!((code(&ended), values(&ended)), (5, vec![value]));
}
