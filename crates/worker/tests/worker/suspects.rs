use std::time::Duration;

use proto::v1::{AttemptResult, Task};

use crate::scheduler::{Scheduler, task, view};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

fn suspect(lane: u16, number: u64) -> Task {
    Task {
        suspect: true,
        ..task(lane, number, "gate", "")
    }
}

#[tokio::test]
async fn one_scheduler_after_the_other_may_hand_out_suspects() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let worker = worker::start(&a, 8);
    let both = view(&[&a, &b], &[1, 2]);
    let mut with_a = a.welcome_to(LEASE, both.clone()).await;
    let mut with_b = b.welcome_to(LEASE, both).await;

    with_a.suspects(true, 0).await;
    with_a.permit(1).await;
    with_a.dispatch([suspect(0, 1)]).await;
    worker.handlers.gate.holds(1).await;
    with_b.suspects(true, 0).await;
    with_a.permit(2).await;
    // Not before nothing is under way by it.
    with_a.suspects(true, 1).await;
    with_b.dispatch([task(1, 3, "gate", "")]).await;
    worker.handlers.gate.holds(2).await;
    worker.handlers.gate.let_through(2);
    assert_eq!(with_a.result().await.result(), AttemptResult::Success);
    with_a.suspects(true, 2).await;
    with_b.permit(1).await;

    with_b.suspects(false, 1).await;
    with_b.permit(2).await;
    with_b.suspects(false, 2).await;
    with_a.permit(3).await;
}

#[tokio::test]
async fn a_permit_ends_with_its_stream_but_not_before_what_runs_by_it() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let worker = worker::start(&a, 8);
    let both = view(&[&a, &b], &[1, 2]);
    let mut with_a = a.welcome_to(LEASE, both.clone()).await;
    let mut with_b = b.welcome_to(LEASE, both.clone()).await;
    with_a.suspects(true, 0).await;
    with_a.permit(1).await;
    with_a.dispatch([suspect(0, 1)]).await;
    worker.handlers.gate.holds(1).await;

    drop(with_a);
    with_b.suspects(true, 0).await;
    let mut with_a = a.welcome_to(LEASE, both).await;
    with_a.suspects(true, 0).await;
    with_a.permit(1).await;
    worker.handlers.gate.let_through(1);
    with_a.result().await;
    with_a.permit(2).await;
    with_a.suspects(true, 2).await;
    with_b.permit(1).await;
}

#[tokio::test]
async fn a_suspect_that_comes_beside_another_is_handed_back() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 8);
    let mut stream = a.welcome(LEASE).await;
    stream.dispatch([suspect(0, 1), suspect(0, 2)]).await;
    let returned = stream.result().await;
    assert_eq!(returned.execution_id, suspect(0, 2).execution_id);
    assert_eq!(returned.result(), AttemptResult::Returned);
    worker.handlers.gate.holds(1).await;
}
