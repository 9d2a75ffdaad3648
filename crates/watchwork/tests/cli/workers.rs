use proto::v1::{Worker, WorkerState};
use serde_json::json;
use tonic::Status;

use crate::scripted_api::ScriptedApi;
use crate::{code, stderr, stdout, values, watchwork};

fn worker(worker_id: &str, state: WorkerState) -> Worker {
    Worker {
        worker_id: worker_id.to_owned(),
        pool: "gpu".to_owned(),
        state: state.into(),
        slots: 8,
        running: 3,
        version: "0.1.0".to_owned(),
        queues: vec!["orders".to_owned()],
        ..Worker::default()
    }
}

#[tokio::test]
async fn workers_are_listed_with_how_they_are() {
    let api = ScriptedApi::start().await;
    api.has_workers(vec![worker("w-1", WorkerState::Draining)]);
    let ended = watchwork(&api, &["worker", "list"]).await;
    let table = "WORKER  POOL  STATE     RUNNING  SLOTS  HEARD  VERSION  QUEUES\n\
                 w-1     gpu   DRAINING  3        8      -      0.1.0    orders\n";
    assert_eq!((code(&ended), stdout(&ended).as_str()), (0, table));

    let ended = watchwork(&api, &["worker", "list", "-o", "json"]).await;
    let [value] = &values(&ended)[..] else {
        panic!("{ended:?}")
    };
    assert_eq!(
        (&value["state"], &value["running"]),
        (&json!("DRAINING"), &json!(3))
    );
}

#[tokio::test]
async fn a_worker_is_told_to_leave_within_a_grace() {
    let api = ScriptedApi::start().await;
    let ended = watchwork(&api, &["worker", "drain", "w-1", "--grace", "90s"]).await;
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    assert!(
        stdout(&ended).starts_with("w-1  takes nothing new; 3 running at its last heartbeat; ")
    );
    let asked = api.drained();
    assert_eq!(asked.worker_id, "w-1");
    assert_eq!(asked.grace.map(|grace| grace.seconds), Some(90));

    let ended = watchwork(&api, &["worker", "drain", "w-1", "-o", "json"]).await;
    let value = json!({"worker_id": "w-1", "state": "draining", "running": 3});
    assert_eq!(values(&ended), [value]);
    assert_eq!(api.drained().grace, None, "the worker's own");
}

#[tokio::test]
async fn who_waits_is_told_when_it_has_left() {
    let api = ScriptedApi::start().await;
    api.has_workers(vec![worker("w-1", WorkerState::Draining)]);
    api.has_workers(vec![worker("w-2", WorkerState::Working)]);
    let ended = watchwork(&api, &["worker", "drain", "w-1", "--wait"]).await;
    let told = "w-1  takes nothing new; 3 running at its last heartbeat\nw-1  has left\n";
    assert_eq!((code(&ended), stdout(&ended).as_str()), (0, told));
}

#[tokio::test]
async fn who_is_not_there_or_may_not_be_drained_is_told_so() {
    let api = ScriptedApi::start().await;
    api.fails_with(Status::not_found("no worker \"w-9\" is connected"));
    let ended = watchwork(&api, &["worker", "drain", "w-9"]).await;
    let told = "watchwork: no worker \"w-9\" is connected\n";
    assert_eq!((code(&ended), stderr(&ended).as_str()), (3, told));
    let ended = watchwork(&api, &["worker", "drain", "w-1", "--grace", "-1s"]).await;
    assert_eq!(code(&ended), 2);
}
