use std::time::{Duration, Instant};

use proto::v1::AttemptResult;
use proto::v1::Revoke;
use proto::v1::work_response::Message as Response;

use crate::handlers::Handlers;
use crate::scheduler::{Scheduler, held, task, view};
use crate::worker;

const LEASE: Duration = Duration::from_millis(800);

#[tokio::test]
async fn a_handler_is_dropped_before_the_lease_is_over_and_nothing_is_reported() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 1);
    let mut stream = a.welcome(LEASE).await;
    stream.told_what_is_held().await;
    stream.dispatch([task(0, 1, "gate", "")]).await;
    worker.handlers.gate.holds(1).await;
    stream.beats(15).await;
    assert_eq!(
        worker.handlers.gate.holds_now(),
        1,
        "answered beats keep it running"
    );

    let last_answer = Instant::now();
    stream.stop_answering();
    worker.handlers.gate.holds(0).await;
    assert!(last_answer.elapsed() < LEASE, "{:?}", last_answer.elapsed());
    // The stream that answers nothing is given up, and its successor finds nothing held.
    assert!(stream.rest().await.is_empty());
    drop(stream);
    let mut stream = a.welcome(LEASE).await;
    assert!(stream.hello.held.is_empty());
    stream.dispatch([task(0, 2, "noop", "")]).await;
    assert_eq!(
        stream.result().await.result(),
        AttemptResult::Success,
        "the slot is free"
    );
}

#[tokio::test]
async fn a_later_owner_that_answers_keeps_the_handler_running() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let worker = worker::start(&a, 2);
    let with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1])).await;
    let mut with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1])).await;
    with_a.dispatch([task(0, 1, "gate", "")]).await;
    worker.handlers.gate.holds(1).await;

    drop((with_a, a));
    with_b.say(Response::ClusterView(view(&[&b], &[1]))).await;
    with_b.beats(20).await;
    worker.handlers.gate.let_through(1);
    assert_eq!(with_b.result().await.result(), AttemptResult::Success);
}

#[tokio::test]
async fn what_is_revoked_is_stopped_and_not_reported() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 1);
    let mut stream = a.welcome(LEASE).await;
    let (running, waiting) = (task(0, 1, "gate", ""), task(0, 2, "gate", ""));
    stream
        .dispatch([running.clone(), waiting.clone(), task(0, 3, "noop", "")])
        .await;
    worker.handlers.gate.holds(1).await;
    let held = vec![held(&running), held(&waiting)];
    stream.say(Response::Revoke(Revoke { held })).await;
    let results = stream.results(1).await;
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].execution_id, task(0, 3, "noop", "").execution_id);
    assert_eq!(worker.handlers.gate.began(), 1);
}

#[tokio::test]
async fn who_has_lost_the_lane_meanwhile_revokes_nothing() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let worker = worker::start(&a, 1);
    let with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1])).await;
    let mut with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1])).await;
    let (running, waiting) = (task(0, 1, "gate", ""), task(0, 2, "gate", ""));
    with_a.dispatch([running.clone(), waiting.clone()]).await;
    worker.handlers.gate.holds(1).await;

    let moved = view(&[&a, &b], &[2]);
    with_a.say(Response::ClusterView(moved)).await;
    let revoked = vec![held(&running)];
    with_a.say(Response::Revoke(Revoke { held: revoked })).await;
    // What comes of this says that it has heard the rest.
    with_a.cancel([held(&waiting)]).await;
    let cancelled = with_b.result().await;
    assert_eq!(cancelled.execution_id, waiting.execution_id);
    worker.handlers.gate.let_through(1);
    assert_eq!(with_b.result().await.execution_id, running.execution_id);
}

#[test]
fn handlers_that_block_every_thread_do_not_stop_heartbeats_nor_outlast_their_timeout() {
    let here = tokio::runtime::Runtime::new().unwrap();
    let mut a = here.block_on(Scheduler::start("a"));
    let handlers = Handlers::default();
    let worker = worker::describe(&a, 1, &handlers).build().unwrap();
    let process = worker::process(Duration::from_secs(1));
    // The worker's only thread is the one that will block.
    let its_process = process.clone();
    let its_thread = std::thread::spawn(move || {
        let single = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        single.block_on(worker.run(&its_process)).unwrap();
    });

    here.block_on(async {
        let mut stream = a.welcome(LEASE).await;
        let mut blocks = task(0, 1, "block", "");
        blocks.timeout_us = 1_000;
        stream.dispatch([blocks]).await;
        stream.beats(20).await;
        let result = stream.result().await;
        assert_eq!(result.result(), AttemptResult::Timeout);
        stream
            .settle(&result, proto::v1::SettlementVerdict::Recorded)
            .await;
        handlers.block.release();
        stream.dispatch([task(0, 2, "noop", "")]).await;
        let next = stream.result().await;
        assert_eq!(
            next.result(),
            AttemptResult::Success,
            "its slot came back with it"
        );
        stream
            .settle(&next, proto::v1::SettlementVerdict::Recorded)
            .await;
        process.shutdown.cancel();
        stream.rest().await;
    });
    its_thread.join().unwrap();
}
