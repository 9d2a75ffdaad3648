use proto::internal::v1::WatchExecutionsResponse as OwnersChange;
use proto::v1::{ExecutionState, WatchExecutionsRequest, WatchExecutionsResponse};
use tonic::{Code, Status, Streaming};

use crate::running_gateway::{RunningGateway, signed, within};
use crate::scripted_scheduler::{OpenedWatch, ScriptedScheduler, view};

fn id(lane: u128) -> String {
    let id = domain::ExecutionId::from_bytes((lane << 64 | 1 << 18).to_be_bytes());
    id.to_string()
}

fn change(lane: u128, state: ExecutionState, fence: u64) -> OwnersChange {
    let mut change = WatchExecutionsResponse {
        execution_id: id(lane),
        fence,
        ..Default::default()
    };
    change.set_state(state);
    OwnersChange {
        change: Some(change),
    }
}

async fn watch(gateway: &RunningGateway, ids: Vec<String>) -> Streaming<WatchExecutionsResponse> {
    let request = signed(WatchExecutionsRequest { execution_ids: ids });
    within(gateway.client().watch_executions(request))
        .await
        .unwrap()
        .into_inner()
}

async fn next(changes: &mut Streaming<WatchExecutionsResponse>) -> (ExecutionState, u64) {
    let change = within(changes.message())
        .await
        .unwrap()
        .expect("another change");
    (change.state(), change.fence)
}

async fn say(opened: &OpenedWatch, change: OwnersChange) {
    opened.1.send(Ok(change)).await.unwrap();
}

#[tokio::test]
async fn a_watch_survives_its_owner_and_never_shows_an_older_state() {
    let mut one = ScriptedScheduler::start("s1");
    let mut two = ScriptedScheduler::start("s2");
    let both = view(&[("s1", &one.address), ("s2", &two.address)], &[1, 2]);
    one.say_view(both.clone());
    two.say_view(both);
    let gateway = RunningGateway::ready(&[&two.address]).await;
    let mut changes = watch(&gateway, vec![id(0)]).await;
    let opened = within(one.watches.recv()).await.unwrap();
    say(&opened, change(0, ExecutionState::Queued, 0)).await;
    say(&opened, change(0, ExecutionState::Running, 5)).await;
    assert_eq!(next(&mut changes).await, (ExecutionState::Queued, 0));
    assert_eq!(next(&mut changes).await, (ExecutionState::Running, 5));

    one.kill();
    two.say_view(view(&[("s2", &two.address)], &[1, 1]));
    let opened = within(two.watches.recv()).await.unwrap();
    for (state, fence) in [
        (ExecutionState::Queued, 0),
        (ExecutionState::Running, 5),
        (ExecutionState::Retrying, 5),
        (ExecutionState::Running, 5),
        (ExecutionState::Succeeded, 9),
    ] {
        say(&opened, change(0, state, fence)).await;
    }
    assert_eq!(next(&mut changes).await, (ExecutionState::Retrying, 5));
    assert_eq!(next(&mut changes).await, (ExecutionState::Succeeded, 9));
    assert_eq!(
        within(changes.message()).await.unwrap(),
        None,
        "all is final"
    );
}

#[tokio::test]
async fn a_lane_that_moves_away_is_asked_of_its_new_owner() {
    let mut one = ScriptedScheduler::start("s1");
    let mut two = ScriptedScheduler::start("s2");
    let addresses = (one.address.clone(), two.address.clone());
    let schedulers = [("s1", addresses.0.as_str()), ("s2", addresses.1.as_str())];
    one.say_view(view(&schedulers, &[1, 1]));
    let gateway = RunningGateway::ready(&[&one.address]).await;
    let mut changes = watch(&gateway, vec![id(0), id(1)]).await;
    let opened = within(one.watches.recv()).await.unwrap();
    assert_eq!(opened.0.execution_ids.len(), 2);
    say(&opened, change(1, ExecutionState::Failed, 3)).await;
    assert_eq!(next(&mut changes).await, (ExecutionState::Failed, 3));

    opened
        .1
        .send(Err(Status::unavailable("lane 0 moved")))
        .await
        .unwrap();
    one.say_view(view(&schedulers, &[2, 1]));
    let opened = within(async {
        // The old owner may be asked again first; it says the same again.
        loop {
            tokio::select! {
                opened = two.watches.recv() => break opened.unwrap(),
                again = one.watches.recv() => {
                    again.unwrap().1.send(Err(Status::unavailable("moved"))).await.unwrap();
                }
            }
        }
    })
    .await;
    assert_eq!(
        opened.0.execution_ids.len(),
        1,
        "what is final isn't asked for again"
    );
    say(&opened, change(0, ExecutionState::DeadLettered, 4)).await;
    assert_eq!(next(&mut changes).await, (ExecutionState::DeadLettered, 4));
    assert_eq!(within(changes.message()).await.unwrap(), None);
}

#[tokio::test]
async fn a_watch_of_what_is_not_there_ends_with_not_found() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut changes = watch(&gateway, vec![id(0)]).await;
    let opened = within(scheduler.watches.recv()).await.unwrap();
    opened
        .1
        .send(Err(Status::not_found("no such execution")))
        .await
        .unwrap();
    let status = within(changes.message()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "no such execution")
    );
}

#[tokio::test]
async fn a_watch_names_one_to_a_thousand_ids() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    for ids in [vec![], vec![id(0); 1_001], vec![id(0), "x".to_owned()]] {
        let request = signed(WatchExecutionsRequest { execution_ids: ids });
        let status = within(gateway.client().watch_executions(request))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn the_owner_learns_when_the_client_leaves() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let changes = watch(&gateway, vec![id(0)]).await;
    let opened = within(scheduler.watches.recv()).await.unwrap();
    drop(changes);
    within(opened.1.closed()).await;
}
