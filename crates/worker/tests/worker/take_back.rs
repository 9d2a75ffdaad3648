use std::time::Duration;

use proto::v1::AttemptResult;

use crate::scheduler::{Scheduler, held, task};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_has_not_begun_is_handed_back_and_what_runs_goes_on() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 1);
    let mut stream = a.welcome(LEASE).await;
    let [running, listed, unlisted] = [1, 2, 3].map(|number| task(0, number, "gate", ""));
    stream
        .dispatch([running.clone(), listed.clone(), unlisted.clone()])
        .await;
    worker.handlers.gate.holds(1).await;

    stream.take_back([held(&running), held(&listed)]).await;
    let result = stream.result().await;
    assert_eq!(result.execution_id, listed.execution_id);
    assert_eq!(result.result(), AttemptResult::Returned);
    assert_eq!((result.error, result.ran_us), (None, 0));

    worker.handlers.gate.let_through(3);
    for task in [running, unlisted] {
        let result = stream.result().await;
        assert_eq!(result.execution_id, task.execution_id);
        assert_eq!(result.result(), AttemptResult::Success);
    }
    assert_eq!(worker.handlers.gate.began(), 2);
}

#[tokio::test]
async fn what_was_handed_back_can_come_again() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 1);
    let mut stream = a.welcome(LEASE).await;
    let [running, mut again] = [1, 2].map(|number| task(0, number, "gate", ""));
    stream.dispatch([running, again.clone()]).await;
    worker.handlers.gate.holds(1).await;
    stream.take_back([held(&again)]).await;
    assert_eq!(stream.result().await.result(), AttemptResult::Returned);

    again.fence += 1;
    stream.dispatch([again.clone()]).await;
    worker.handlers.gate.let_through(2);
    let results = stream.results(2).await;
    let last = results.last().unwrap();
    assert_eq!(
        (last.fence, last.result()),
        (again.fence, AttemptResult::Success)
    );
}
