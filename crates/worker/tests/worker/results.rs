use std::time::Duration;

use proto::v1::SettlementVerdict::{NotOwner, Recorded, Stale};
use proto::v1::work_request::Message as Request;
use proto::v1::work_response::Message as Response;

use crate::scheduler::{Scheduler, execution, held, task, view};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_result_is_sent_again_until_it_is_settled() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 4);
    let mut stream = a.accept().await;
    assert_eq!(stream.authorization, "Bearer wk_0123456789abcdef_secret");
    assert_eq!(
        (
            stream.hello.slots,
            stream.hello.window,
            stream.hello.held.len()
        ),
        (4, 4, 0)
    );
    drop(stream);
    stream = a.welcome(LEASE).await;

    stream
        .dispatch([task(0, 1, "typed", r#"{"number": 41}"#)])
        .await;
    let first = stream.result().await;
    let second = stream.result().await;
    assert_eq!(first.output, "42");
    assert_eq!(first.execution_id, second.execution_id);
    assert!(
        second.held_us >= 1_900_000,
        "it waits two seconds for a settlement"
    );

    stream.settle(&second, Recorded).await;
    worker.process.shutdown.cancel();
    let rest = stream.rest().await;
    assert!(matches!(rest.last(), Some(Request::Goodbye(_))), "{rest:?}");
    assert!(
        !rest
            .iter()
            .any(|request| matches!(request, Request::Results(_))),
        "{rest:?}"
    );
    drop(stream);
    worker.gone().await;
}

#[tokio::test]
async fn a_result_goes_to_the_lanes_new_owner_when_the_old_one_declines_it() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let worker = worker::start(&a, 4);
    let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    let mut with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    with_a.dispatch([task(0, 1, "noop", "")]).await;
    let result = with_a.result().await;

    // The view comes after the refusal, as it may.
    with_a.settle(&result, NotOwner).await;
    with_b
        .say(Response::ClusterView(view(&[&a, &b], &[2, 2])))
        .await;
    let holding = loop {
        if let Some(Request::Holding(holding)) = with_b.next().await {
            break holding;
        }
    };
    assert_eq!(
        holding.held.len(),
        1,
        "a new owner is told what the worker holds"
    );
    let again = with_b.result().await;
    assert_eq!(again.execution_id, result.execution_id);
    with_b.settle(&again, Recorded).await;
    worker.process.shutdown.cancel();
    assert!(matches!(
        with_b.rest().await.last(),
        Some(Request::Goodbye(_))
    ));
    assert!(matches!(
        with_a.rest().await.last(),
        Some(Request::Goodbye(_))
    ));
}

#[tokio::test]
async fn a_verdict_of_who_has_lost_the_lane_meanwhile_settles_nothing() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let _worker = worker::start(&a, 4);
    let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    let mut with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    let other = task(0, 2, "gate", "");
    with_a
        .dispatch([task(0, 1, "noop", ""), other.clone()])
        .await;
    let result = with_a.result().await;

    let moved = view(&[&a, &b], &[2, 2]);
    with_a.say(Response::ClusterView(moved.clone())).await;
    let again = with_b.result().await;
    assert_eq!(again.execution_id, result.execution_id);
    for verdict in [Stale, Recorded] {
        with_a.settle(&result, verdict).await;
    }
    // What comes of this says that it has heard the verdicts.
    with_a.cancel([held(&other)]).await;
    let cancelled = with_b.result().await;
    assert_eq!(cancelled.execution_id, other.execution_id);
    drop(with_b);
    let with_b = b.welcome_to(LEASE, moved).await;
    assert_eq!(with_b.hello.held.len(), 2, "b has judged neither");
}

#[tokio::test]
async fn a_result_outlives_its_stream() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    stream.dispatch([task(0, 1, "noop", "")]).await;
    let result = stream.result().await;
    drop(stream);

    let mut stream = a.welcome(LEASE).await;
    assert_eq!(stream.hello.held.len(), 1);
    assert_eq!(stream.hello.held[0].execution_id, result.execution_id);
    let again = stream.result().await;
    assert_eq!(again.execution_id, result.execution_id);
    assert!(
        again.held_us < 1_900_000,
        "a new stream is no reason to wait"
    );
    stream.settle(&again, Stale).await;
    drop(stream);
    assert!(a.welcome(LEASE).await.hello.held.is_empty());
}

#[tokio::test]
async fn whoever_hands_out_what_another_owns_hears_by_the_next_hello_that_it_is_not_held() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let _worker = worker::start(&a, 4);
    let with_a = a.welcome_to(LEASE, view(&[&a, &b], &[2])).await;
    let _with_b = b.welcome_to(LEASE, view(&[&a, &b], &[2])).await;
    with_a.dispatch([task(0, 1, "noop", "")]).await;

    let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1])).await;
    assert!(with_a.hello.held.is_empty());
    with_a.dispatch([task(0, 2, "noop", "")]).await;
    let result = with_a.result().await;
    assert_eq!(result.execution_id, execution(0, 2).as_bytes().as_slice());
}

#[tokio::test]
async fn a_task_that_is_held_already_is_not_run_again() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    let once = task(0, 1, "gate", "");
    stream.dispatch([once.clone(), once.clone()]).await;
    worker.handlers.gate.holds(1).await;
    stream.dispatch([once.clone()]).await;
    worker.handlers.gate.let_through(10);
    let result = stream.result().await;
    // Also while its result waits for a settlement.
    stream.dispatch([once, task(0, 2, "noop", "")]).await;
    let other = stream.result().await;
    assert_eq!(other.execution_id, execution(0, 2).as_bytes().as_slice());
    assert_ne!(other.execution_id, result.execution_id);
    assert_eq!(worker.handlers.gate.began(), 1);
}
