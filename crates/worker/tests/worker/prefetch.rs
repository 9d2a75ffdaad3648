use std::time::{Duration, Instant};

use proto::v1::SettlementVerdict::Recorded;
use proto::v1::work_request::Message as Request;

use crate::scheduler::{Conversation, SOON, Scheduler, task};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);
const SLOTS: u32 = 4;

/// Fills the slots once; gives the windows that the worker told until all is done.
async fn fill_once(stream: &mut Conversation, job: (&str, &str), round: u64) -> Vec<u32> {
    let first = round * u64::from(SLOTS);
    let tasks = (first..first + u64::from(SLOTS)).map(|number| task(0, number, job.0, job.1));
    stream.dispatch(tasks).await;
    let (mut windows, mut done) = (Vec::new(), 0);
    while done < SLOTS as usize {
        match stream.next().await.expect("the worker left") {
            Request::Window(window) => windows.push(window.tasks),
            Request::Results(results) => {
                done += results.results.len();
                for result in &results.results {
                    stream.settle(result, Recorded).await;
                }
            }
            _ => {}
        }
    }
    windows
}

#[tokio::test]
async fn fast_handlers_are_handed_more_than_there_are_slots_and_only_while_they_run() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, SLOTS);
    let mut stream = a.welcome(LEASE).await;
    let begun = Instant::now();
    let mut windows = Vec::new();
    for round in 0.. {
        windows.extend(fill_once(&mut stream, ("noop", ""), round).await);
        if windows.iter().any(|window| *window > SLOTS) {
            break;
        }
        assert!(begun.elapsed() < SOON, "{windows:?}");
    }
    assert!(
        windows
            .iter()
            .all(|window| (SLOTS..=5 * SLOTS).contains(window)),
        "{windows:?}"
    );
    while stream.window().await != SLOTS {}
}

#[tokio::test]
async fn slow_handlers_are_handed_no_more_than_there_are_slots() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, SLOTS);
    let mut stream = a.welcome(LEASE).await;
    for round in 0..4 {
        let windows = fill_once(&mut stream, ("sleep", r#"{"ms": 200}"#), round).await;
        assert!(windows.is_empty(), "{windows:?}");
    }
}
