use std::time::{Duration, Instant};

use proto::v1::work_response::Message as Response;

use crate::scheduler::{Conversation, SOON, Scheduler, task, view};
use crate::worker::{self, TestWorker};

const LEASE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_slots_are_split_over_the_schedulers_that_are_there() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let worker = worker::start(&a, 5);
    let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    assert_eq!(with_a.hello.window, 5);
    assert!(
        worker.process.readiness.check().is_err(),
        "nobody has welcomed it yet"
    );

    let with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    let (of_a, of_b) = (with_a.window().await, with_b.hello.window);
    assert_eq!((of_a + of_b, of_a.min(of_b)), (5, 2));
    with_b.beats(2).await;
    assert_eq!(worker.process.readiness.check(), Ok(()));

    drop((with_b, b));
    assert_eq!(with_a.window().await, 5);
}

#[tokio::test]
async fn with_fewer_slots_than_schedulers_each_has_its_turn() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let _worker = worker::start(&a, 1);
    let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    let mut with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    for stream in [&mut with_a, &mut with_b] {
        while stream.window().await != 1 {}
        assert_eq!(stream.window().await, 0);
    }
}

/// Two schedulers that have said nothing of their demand, and a worker for both.
struct Pair {
    worker: TestWorker,
    a: Conversation,
    b: Conversation,
    schedulers: [Scheduler; 2],
}

impl Pair {
    /// The lane's owner is none of them as far as the worker knows.
    async fn start(slots: u32) -> Self {
        let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
        let worker = worker::start(&a, slots);
        let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[0])).await;
        let with_b = b.welcome_to(LEASE, view(&[&a, &b], &[0])).await;
        assert_eq!(
            (with_a.window().await, with_b.hello.window),
            (slots / 2, slots / 2)
        );
        Self {
            worker,
            a: with_a,
            b: with_b,
            schedulers: [a, b],
        }
    }

    /// So many tasks of `a` run until the gate lets them through.
    async fn run_of_a(&mut self, count: u64) {
        self.a
            .dispatch((0..count).map(|number| task(0, number, "gate", "")))
            .await;
        self.worker
            .handlers
            .gate
            .holds(count.try_into().unwrap())
            .await;
    }
}

/// Reads windows until there is this one.
async fn comes_to(stream: &mut Conversation, window: u32) {
    let reached = async { while stream.window().await != window {} };
    tokio::time::timeout(SOON, reached)
        .await
        .unwrap_or_else(|_| panic!("the window never was {window}"));
}

#[tokio::test]
async fn windows_follow_demand_and_an_idle_schedulers_share_comes_back() {
    let mut pair = Pair::start(8).await;
    pair.a.demand(8).await;
    pair.b.demand(0).await;
    comes_to(&mut pair.a, 8).await;
    comes_to(&mut pair.b, 0).await;
    pair.b.demand(20).await;
    assert_eq!(pair.a.window().await, 4);
    assert_eq!(pair.b.window().await, 4);
    pair.a.demand(2).await;
    assert_eq!(pair.a.window().await, 2);
    assert_eq!(pair.b.window().await, 6);
    pair.b.demand(0).await;
    assert_eq!(
        pair.a.window().await,
        5,
        "what nobody asks for is spread evenly"
    );
    assert_eq!(pair.b.window().await, 3);
}

#[tokio::test]
async fn a_window_grows_only_by_what_the_other_scheduler_has_really_left() {
    let mut pair = Pair::start(8).await;
    pair.a.demand(8).await;
    pair.b.demand(0).await;
    comes_to(&mut pair.a, 8).await;
    comes_to(&mut pair.b, 0).await;
    pair.run_of_a(6).await;

    pair.b.demand(8).await;
    assert_eq!(pair.a.window().await, 4);
    assert_eq!(pair.b.window().await, 2);
    pair.worker.handlers.gate.let_through(1);
    assert_eq!(pair.b.window().await, 3);
    pair.worker.handlers.gate.let_through(1);
    assert_eq!(pair.b.window().await, 4);
}

#[tokio::test]
async fn what_runs_counts_for_the_scheduler_that_owns_its_lane_now() {
    let mut pair = Pair::start(4).await;
    pair.a.demand(4).await;
    pair.b.demand(0).await;
    comes_to(&mut pair.a, 4).await;
    comes_to(&mut pair.b, 0).await;
    pair.run_of_a(4).await;
    pair.b.demand(4).await;
    assert_eq!(pair.a.window().await, 2);

    let [a, b] = &pair.schedulers;
    let moved = view(&[a, b], &[2]);
    pair.b.say(Response::ClusterView(moved)).await;
    assert_eq!(pair.a.window().await, 0);
    assert_eq!(pair.b.window().await, 2);
}

#[tokio::test]
async fn a_small_change_is_told_but_not_at_once() {
    let mut pair = Pair::start(1_000).await;
    let begun = Instant::now();
    pair.a.demand(400).await;
    pair.b.demand(600).await;
    comes_to(&mut pair.b, 600).await;
    pair.b.demand(590).await;
    assert_eq!(pair.b.window().await, 595);
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}
