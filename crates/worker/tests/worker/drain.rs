use std::time::Duration;

use proto::v1::SettlementVerdict::Recorded;
use proto::v1::work_request::Message as Request;
use proto::v1::work_response::Message as Response;
use proto::v1::{AttemptResult, Drain};

use crate::scheduler::{Scheduler, task};
use crate::worker;

const LEASE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_shutdown_hands_back_what_is_unfinished_and_waits_until_it_is_settled() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start_with_grace(&a, 1, Duration::from_secs(2));
    let mut stream = a.welcome(LEASE).await;
    stream
        .dispatch([task(0, 1, "gate", ""), task(0, 2, "gate", "")])
        .await;
    worker.handlers.gate.holds(1).await;

    worker.process.shutdown.cancel();
    let unbegun = stream.result().await;
    assert_eq!(unbegun.result(), AttemptResult::Returned);
    assert_eq!(unbegun.ran_us, 0);
    assert_eq!(
        worker.handlers.gate.holds_now(),
        1,
        "what runs has the grace"
    );
    stream.dispatch([task(0, 3, "noop", "")]).await;
    stream.beats(1).await;
    let late = stream.result().await;
    assert_eq!(
        late.result(),
        AttemptResult::Returned,
        "nothing new is begun"
    );

    let unfinished = stream.result().await;
    assert_eq!(unfinished.execution_id, task(0, 1, "", "").execution_id);
    assert_eq!(unfinished.result(), AttemptResult::Returned);
    assert!(unfinished.ran_us > 0);
    assert_eq!(worker.handlers.gate.holds_now(), 0);
    for result in [&unbegun, &late, &unfinished] {
        stream.settle(result, Recorded).await;
    }
    assert!(matches!(
        stream.rest().await.last(),
        Some(Request::Goodbye(_))
    ));
    drop(stream);
    worker.gone().await;
}

#[tokio::test]
async fn a_handler_that_gives_up_when_the_worker_leaves_is_handed_back() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start_with_grace(&a, 1, Duration::from_millis(500));
    let mut stream = a.welcome(LEASE).await;
    stream.dispatch([task(0, 1, "heed", r#""fail""#)]).await;
    worker.handlers.heed.holds(1).await;
    worker.process.shutdown.cancel();
    let result = stream.result().await;
    assert_eq!(result.result(), AttemptResult::Returned);
    assert_eq!(worker.handlers.heed.cancelled(), 0, "nobody cancelled it");
}

#[tokio::test]
async fn what_ends_within_the_grace_is_done_and_a_window_of_zero_comes_first() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 3);
    let mut stream = a.welcome(LEASE).await;
    stream.told_what_is_held().await;
    stream.dispatch([task(0, 1, "gate", "")]).await;
    worker.handlers.gate.holds(1).await;
    worker.process.shutdown.cancel();
    let first = stream.next().await;
    assert!(
        matches!(first, Some(Request::Window(window)) if window.tasks == 0),
        "{first:?}"
    );
    worker.handlers.gate.let_through(1);
    let result = stream.result().await;
    assert_eq!(result.result(), AttemptResult::Success);
    stream.settle(&result, Recorded).await;
    assert!(matches!(
        stream.rest().await.last(),
        Some(Request::Goodbye(_))
    ));
}

#[tokio::test]
async fn a_scheduler_that_settles_nothing_gets_no_goodbye_and_does_not_hold_the_end() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start_with_grace(&a, 1, Duration::from_millis(500));
    let mut stream = a.welcome(LEASE).await;
    stream.dispatch([task(0, 1, "noop", "")]).await;
    stream.result().await;
    worker.process.shutdown.cancel();
    let rest = stream.rest().await;
    assert!(
        !rest
            .iter()
            .any(|request| matches!(request, Request::Goodbye(_))),
        "{rest:?}"
    );
    drop(stream);
    worker.gone().await;
}

#[tokio::test]
async fn a_scheduler_can_have_it_leave_and_shorten_the_grace() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 2);
    let mut stream = a.welcome(LEASE).await;
    stream.dispatch([task(0, 1, "gate", "")]).await;
    worker.handlers.gate.holds(1).await;
    stream.say(Response::Drain(Drain { grace_us: None })).await;
    while stream.window().await != 0 {}
    assert!(worker.process.readiness.check().is_err());
    assert_eq!(
        worker.handlers.gate.holds_now(),
        1,
        "what runs has the grace"
    );

    let at_once = Drain { grace_us: Some(0) };
    stream.say(Response::Drain(at_once)).await;
    let unfinished = stream.result().await;
    assert_eq!(unfinished.result(), AttemptResult::Returned);
    stream.settle(&unfinished, Recorded).await;
    let last = stream.rest().await.pop();
    assert!(matches!(last, Some(Request::Goodbye(_))), "{last:?}");
    drop(stream);
    worker.gone().await;
}
