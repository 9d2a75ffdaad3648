use proto::v1::{ExecutionState, ListExecutionsRequest, ListExecutionsResponse};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::running_gateway::{RunningGateway, signed, with_authorization, within};
use crate::scripted_scheduler::{READ_ONLY, SECRET, ScriptedScheduler, TENANT, dead_address, view};

async fn list(
    gateway: &RunningGateway,
    request: ListExecutionsRequest,
) -> Result<ListExecutionsResponse, Status> {
    let answer = within(gateway.client().list_executions(signed(request))).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn a_list_is_asked_as_it_was_wished_and_answered_as_it_comes() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let wish = ListExecutionsRequest {
        queue: "mail".to_owned(),
        states: vec![ExecutionState::Queued as i32],
        job_type: "App/Send".to_owned(),
        page_size: 7,
        page_token: "/+= ä".to_owned(),
        without_discarded: true,
    };
    let page = list(&gateway, wish.clone()).await.unwrap();
    assert_eq!(page.executions.len(), 1);
    assert_eq!(page.next_page_token, "more");
    let asked = within(scheduler.lists.recv()).await.unwrap();
    assert_eq!((asked.tenant, asked.list), (TENANT, Some(wish)));

    list(&gateway, ListExecutionsRequest::default())
        .await
        .unwrap();
    let asked = within(scheduler.lists.recv()).await.unwrap();
    assert_eq!(asked.list.unwrap().page_size, 50);
    let labels = ["/watchwork.v1.ExecutionService/ListExecutions", "OK"];
    assert_eq!(gateway.counter("api_requests_total", &labels), 2.0);
}

#[tokio::test]
async fn a_wish_that_cannot_be_is_refused_by_name() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let none = ListExecutionsRequest::default;
    let states = vec![0];
    let page_size = 501;
    let queue = "A".to_owned();
    for (bad, field) in [
        (ListExecutionsRequest { states, ..none() }, "states[0]"),
        (
            ListExecutionsRequest {
                page_size,
                ..none()
            },
            "page_size",
        ),
        (ListExecutionsRequest { queue, ..none() }, "queue"),
    ] {
        let status = list(&gateway, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field);
    }
    assert!(scheduler.lists.try_recv().is_err(), "nothing was asked");
    // What only the scheduler can see is its word.
    let failure = Status::invalid_argument("page_token: it belongs to another filter");
    *scheduler.failure.lock().unwrap() = Some(failure.clone());
    let status = list(&gateway, none()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (failure.code(), failure.message())
    );
}

#[tokio::test]
async fn any_scheduler_that_lives_answers_a_list() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gone = dead_address();
    let schedulers = [("gone", gone.as_str()), ("s1", scheduler.address.as_str())];
    scheduler.say_view(view(&schedulers, &[1, 1]));
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    for _ in 0..4 {
        let message = ListExecutionsRequest::default();
        let request = with_authorization(message, &format!("Bearer wk_{READ_ONLY}_{SECRET}"));
        within(gateway.client().list_executions(request))
            .await
            .unwrap();
        within(scheduler.lists.recv()).await.unwrap();
    }
    scheduler.kill();
    let status = list(&gateway, ListExecutionsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
