use std::time::Duration;

use proto::v1::work_request::Message as Request;

use crate::scheduler::{Conversation, Scheduler, view};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

async fn window(stream: &mut Conversation) -> u32 {
    loop {
        if let Request::Window(window) = stream.next().await.unwrap() {
            return window.tasks;
        }
    }
}

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
    let (of_a, of_b) = (window(&mut with_a).await, with_b.hello.window);
    assert_eq!((of_a + of_b, of_a.min(of_b)), (5, 2));
    with_b.beats(2).await;
    assert_eq!(worker.process.readiness.check(), Ok(()));

    drop((with_b, b));
    assert_eq!(window(&mut with_a).await, 5);
}

#[tokio::test]
async fn with_fewer_slots_than_schedulers_each_has_its_turn() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let _worker = worker::start(&a, 1);
    let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    let mut with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    for stream in [&mut with_a, &mut with_b] {
        while window(stream).await != 1 {}
        assert_eq!(window(stream).await, 0);
    }
}
