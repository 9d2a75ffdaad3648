use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::AttemptResult;
use proto::v1::SettlementVerdict::Recorded;
use proto::v1::work_request::Message as Request;

use crate::scheduler::{Scheduler, held, task};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_has_not_begun_never_does_and_its_slot_goes_to_the_next() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 1);
    let mut stream = a.welcome(LEASE).await;
    let [running, waiting, next] = [1, 2, 3].map(|number| task(0, number, "gate", ""));
    stream
        .dispatch([running.clone(), waiting.clone(), next.clone()])
        .await;
    worker.handlers.gate.holds(1).await;

    stream.cancel([held(&waiting)]).await;
    let result = stream.result().await;
    assert_eq!(result.execution_id, waiting.execution_id);
    assert_eq!(result.result(), AttemptResult::Cancelled);
    assert_eq!((result.error, result.ran_us), (None, 0));

    worker.handlers.gate.let_through(3);
    let others = [stream.result().await, stream.result().await];
    assert_eq!(
        others.map(|result| result.execution_id),
        [running, next].map(|task| task.execution_id)
    );
    assert_eq!(worker.handlers.gate.began(), 2);
}

#[tokio::test]
async fn a_handler_is_told_and_only_a_success_or_a_permanent_error_of_its_own_stands() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 1);
    let mut stream = a.welcome(LEASE).await;
    let cases = [
        (r#""fail""#, AttemptResult::Cancelled, ""),
        (r#""succeed""#, AttemptResult::Success, ""),
        (r#""refuse""#, AttemptResult::Error, "useless"),
    ];
    for (number, (then, expected, class)) in (1..).zip(cases) {
        let heeds = task(0, number, "heed", then);
        stream.dispatch([heeds.clone()]).await;
        worker.handlers.heed.holds(1).await;
        stream.cancel([held(&heeds)]).await;
        let result = stream.result().await;
        assert_eq!(result.result(), expected, "{then}");
        assert_eq!(result.error.clone().unwrap_or_default().class, class);
        assert_eq!(u64::from(worker.handlers.heed.cancelled()), number);
        stream.settle(&result, Recorded).await;
    }
    let cancelled = worker.metric(
        "worker_tasks_completed_total",
        Some(("status", "CANCELLED")),
    );
    assert_eq!(cancelled, 1.0);
}

#[tokio::test]
async fn a_handler_that_listens_and_stays_is_cut_off_after_the_grace() {
    let grace = Duration::from_millis(300);
    let mut a = Scheduler::start("a").await;
    let worker = worker::start_with_cancel_grace(&a, 1, grace);
    let mut stream = a.welcome(LEASE).await;
    let stays = task(0, 1, "heed", r#""stay""#);
    stream.dispatch([stays.clone()]).await;
    worker.handlers.heed.holds(1).await;

    let told = Instant::now();
    stream.cancel([held(&stays)]).await;
    let result = stream.result().await;
    assert_eq!(result.result(), AttemptResult::Cancelled);
    // Two seconds later the worker answers for handlers that can't be stopped.
    let within = grace..grace + Duration::from_secs(2);
    assert!(within.contains(&told.elapsed()), "{:?}", told.elapsed());
    assert_eq!(worker.handlers.heed.cancelled(), 1);
    assert_eq!(worker.handlers.heed.holds_now(), 0);
}

#[tokio::test]
async fn a_handler_that_does_not_listen_is_dropped_at_once() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start_with_cancel_grace(&a, 1, Duration::from_secs(3_600));
    let mut stream = a.welcome(LEASE).await;
    let deaf = task(0, 1, "gate", "");
    stream.dispatch([deaf.clone()]).await;
    worker.handlers.gate.holds(1).await;
    stream.cancel([held(&deaf)]).await;
    assert_eq!(stream.result().await.result(), AttemptResult::Cancelled);
    assert_eq!(worker.handlers.gate.holds_now(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_its_thread_is_answered_for_and_its_slot_is_out_of_reach() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start_with_cancel_grace(&a, 2, Duration::ZERO);
    let mut stream = a.welcome(LEASE).await;
    let blocks = task(0, 1, "block", "");
    stream.dispatch([blocks.clone()]).await;
    worker.handlers.block.holds(1).await;

    stream.cancel([held(&blocks)]).await;
    let result = stream.result().await;
    assert_eq!(result.result(), AttemptResult::Cancelled);
    assert_eq!(stream.window().await, 1);
    worker.handlers.block.release();
    assert_eq!(stream.window().await, 2);
}

#[tokio::test]
async fn another_fence_and_what_has_ended_are_not_touched() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 1);
    let mut stream = a.welcome(LEASE).await;
    let mine = task(0, 1, "gate", "");
    stream.dispatch([mine.clone()]).await;
    worker.handlers.gate.holds(1).await;
    let another = v1::Held {
        fence: mine.fence - 1,
        ..held(&mine)
    };
    stream.cancel([another]).await;
    // By the same stream, so when this one has its answer the other was read.
    let waiting = task(0, 2, "noop", "");
    stream.dispatch([waiting.clone()]).await;
    stream.cancel([held(&waiting)]).await;
    let unbegun = stream.result().await;
    assert_eq!(unbegun.execution_id, waiting.execution_id);
    worker.handlers.gate.let_through(1);
    let done = stream.result().await;
    assert_eq!(done.result(), AttemptResult::Success);

    stream.cancel([held(&mine)]).await;
    let next = task(0, 3, "noop", "");
    stream.dispatch([next.clone()]).await;
    let last = stream.result().await;
    assert_eq!(last.execution_id, next.execution_id);
    for result in [&unbegun, &done, &last] {
        stream.settle(result, Recorded).await;
    }
    worker.process.shutdown.cancel();
    let rest = stream.rest().await;
    assert!(matches!(rest.last(), Some(Request::Goodbye(_))), "{rest:?}");
    let results = |request: &Request| matches!(request, Request::Results(_));
    assert!(!rest.iter().any(results), "{rest:?}");
}
