use proto::v1::{ExecutionState, ExecutionSummary, ListExecutionsResponse};
use serde_json::json;
use tonic::Status;

use crate::scripted_api::{ID, ScriptedApi, execution};
use crate::{code, stderr, stdout, values, watchwork};

const OTHER_ID: &str = "0199c8a1-7d2e-8003-8000-0000000c3a92";

fn dead_letters(ids: &[&str], next_page_token: &str) -> ListExecutionsResponse {
    let summary = |id: &&str| ExecutionSummary {
        execution_id: (*id).to_owned(),
        state: ExecutionState::DeadLettered as i32,
        ..ExecutionSummary::default()
    };
    ListExecutionsResponse {
        executions: ids.iter().map(summary).collect(),
        next_page_token: next_page_token.to_owned(),
    }
}

#[tokio::test]
async fn each_retry_says_on_a_line_what_came_of_it() {
    let api = ScriptedApi::start().await;
    let ended = watchwork(&api, &["retry", ID, OTHER_ID]).await;
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    let told = format!("{ID}  runs again\n{OTHER_ID}  runs again\n");
    assert_eq!(stdout(&ended), told);

    let ended = watchwork(&api, &["retry", ID, "-o", "json"]).await;
    let value = json!({"execution_id": ID, "state": "QUEUED"});
    assert_eq!(values(&ended), [value]);
}

#[tokio::test]
async fn what_cannot_run_again_says_why_and_the_others_do_all_the_same() {
    let api = ScriptedApi::start().await;
    api.refuses(ID, Status::failed_precondition("it has succeeded"));
    let ended = watchwork(&api, &["retry", ID, OTHER_ID]).await;
    assert_eq!(code(&ended), 1);
    assert_eq!(
        stderr(&ended),
        format!("watchwork: {ID}: it has succeeded\n")
    );
    assert_eq!(stdout(&ended), format!("{OTHER_ID}  runs again\n"));

    let ended = watchwork(&api, &["retry", ID, "-o", "json"]).await;
    let value = json!({"execution_id": ID, "error": "it has succeeded"});
    assert_eq!((code(&ended), values(&ended)), (1, vec![value]));

    api.refuses(OTHER_ID, Status::unavailable("no owner"));
    assert_eq!(code(&watchwork(&api, &["retry", OTHER_ID]).await), 4);
}

#[tokio::test]
async fn dead_letters_are_picked_by_id() {
    let api = ScriptedApi::start().await;
    api.says(execution(ExecutionState::DeadLettered, Vec::new()));
    let ended = watchwork(&api, &["dlq", "redrive", ID]).await;
    assert_eq!(stdout(&ended), format!("{ID}  runs again\n"));
    let ended = watchwork(&api, &["dlq", "discard", OTHER_ID]).await;
    assert_eq!(stdout(&ended), format!("{OTHER_ID}  discarded\n"));
    let expected = [("retry", ID.to_owned()), ("discard", OTHER_ID.to_owned())];
    assert_eq!(api.revisions(), expected);
    assert!(api.listed().is_empty());
}

#[tokio::test]
async fn what_is_no_dead_letter_is_not_redriven() {
    let api = ScriptedApi::start().await;
    api.says(execution(ExecutionState::Failed, Vec::new()));
    let ended = watchwork(&api, &["dlq", "redrive", ID]).await;
    assert_eq!(code(&ended), 1);
    let said = stderr(&ended);
    assert!(
        said.contains("FAILED and no dead letter") && said.contains("watchwork retry"),
        "{said}"
    );
    assert!(api.revisions().is_empty());
}

#[tokio::test]
async fn all_dead_letters_of_a_queue_are_picked_page_by_page() {
    let api = ScriptedApi::start().await;
    api.lists(dead_letters(&[ID], "more"));
    api.lists(dead_letters(&[OTHER_ID], ""));
    let ended = watchwork(&api, &["dlq", "redrive", "--queue", "mail"]).await;
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    assert_eq!(stdout(&ended), "2 dead letters run again\n");
    let listed = api.listed();
    let dead = vec![ExecutionState::DeadLettered as i32];
    assert_eq!((&*listed[0].queue, &listed[0].states), ("mail", &dead));
    assert!(listed[0].without_discarded, "nobody need look at those");
    assert_eq!(listed[1].page_token, "more");

    api.lists(dead_letters(&[ID], "more"));
    let ended = watchwork(&api, &["dlq", "discard", "--all", "--limit", "1"]).await;
    assert_eq!(stdout(&ended), "1 dead letter discarded\n");
    let none = watchwork(&api, &["dlq", "redrive", "--type", "t"]).await;
    assert_eq!(stdout(&none), "there is no such dead letter\n");
}

#[tokio::test]
async fn nothing_is_redriven_unless_it_is_said_what() {
    let api = ScriptedApi::start().await;
    for wrong in [
        &["dlq", "redrive"][..],
        &["dlq", "discard", "--limit", "5"],
        &["dlq", "redrive", ID, "--all"],
        &["retry"],
    ] {
        assert_eq!(code(&watchwork(&api, wrong).await), 2, "{wrong:?}");
    }
    assert!(api.revisions().is_empty());
}

#[tokio::test]
async fn the_dead_letters_are_listed_without_those_that_were_discarded() {
    let api = ScriptedApi::start().await;
    api.lists(dead_letters(&[ID], ""));
    let ended = watchwork(&api, &["dlq", "list"]).await;
    assert!(stdout(&ended).contains(ID), "{}", stdout(&ended));
    let listed = api.listed();
    let dead = vec![ExecutionState::DeadLettered as i32];
    assert_eq!(
        (&listed[0].states, listed[0].without_discarded),
        (&dead, true)
    );
}
