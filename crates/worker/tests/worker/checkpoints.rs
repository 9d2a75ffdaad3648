use std::time::Duration;

use proto::v1;
use proto::v1::CheckpointVerdict::{NotOwner, Recorded, Stale, TooLarge};
use proto::v1::SettlementVerdict;
use proto::v1::checkpoints::Checkpoint;
use proto::v1::work_request::Message as Request;
use proto::v1::work_response::Message as Response;

use crate::scheduler::{Conversation, Scheduler, task, view};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

fn counts(payload: &str) -> v1::Task {
    task(0, 1, "count", payload)
}

/// The next checkpoint, what comes before it passed over.
async fn checkpoint(stream: &mut Conversation) -> Checkpoint {
    loop {
        if let Some(Request::Checkpoints(mut sent)) = stream.next().await {
            return sent.checkpoints.remove(0);
        }
    }
}

async fn answer(stream: &Conversation, sent: &Checkpoint, verdict: v1::CheckpointVerdict) {
    let answer = v1::CheckpointAnswer {
        execution_id: sent.execution_id.clone(),
        fence: sent.fence,
        number: sent.number,
        verdict: verdict.into(),
    };
    let answers = vec![answer];
    stream
        .say(Response::CheckpointAnswers(v1::CheckpointAnswers {
            answers,
        }))
        .await;
}

#[tokio::test]
async fn a_checkpoint_waits_for_its_answer_and_goes_before_the_result() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    stream.dispatch([counts(r#"{"n": 4, "every": 2}"#)]).await;
    let first = checkpoint(&mut stream).await;
    assert_eq!((first.number, &first.state[..]), (1, &b"2"[..]));
    assert_eq!(
        first.progress.as_ref().map(|p| (p.done, p.total)),
        Some((2, 4))
    );
    let again = checkpoint(&mut stream).await;
    assert_eq!(again, first, "nobody has answered, so it is sent again");
    answer(&stream, &first, Recorded).await;

    let second = checkpoint(&mut stream).await;
    assert_eq!((second.number, &second.state[..]), (2, &b"4"[..]));
    answer(&stream, &second, Recorded).await;
    let result = stream.result().await;
    assert_eq!(&result.output[..], br#"{"from":0,"to":4}"#);
    assert_eq!(
        result.items.map(|items| (items.success, items.failed)),
        Some((4, 0))
    );
    assert_eq!(result.progress.as_ref().map(|p| p.done), Some(4));
    stream.settle(&result, SettlementVerdict::Recorded).await;
    assert_eq!(worker.metric("worker_checkpoint_success_total", None), 2.0);
    assert_eq!(worker.metric("worker_checkpoint_failures_total", None), 0.0);
}

#[tokio::test]
async fn an_attempt_goes_on_from_what_its_task_brings() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    let saved = v1::SavedCheckpoint {
        fence: 3,
        number: 9,
        state: "7".into(),
    };
    let task = v1::Task {
        saved: Some(saved),
        ..counts(r#"{"n": 10}"#)
    };
    stream.dispatch([task]).await;
    let result = stream.result().await;
    assert_eq!(&result.output[..], br#"{"from":7,"to":10}"#);
    assert_eq!(result.items.map(|items| items.success), Some(3));
}

#[tokio::test]
async fn who_has_lost_the_right_learns_it_from_the_answer() {
    let mut a = Scheduler::start("a").await;
    let worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    for (verdict, says) in [
        (Stale, "the right to this attempt"),
        (TooLarge, "at most 262144"),
    ] {
        stream.dispatch([counts(r#"{"n": 4, "every": 2}"#)]).await;
        let sent = checkpoint(&mut stream).await;
        answer(&stream, &sent, verdict).await;
        let result = stream.result().await;
        let error = result.error.clone().unwrap();
        assert!(error.message.contains(says), "{error:?}");
        stream.settle(&result, SettlementVerdict::Stale).await;
    }
    assert_eq!(worker.metric("worker_checkpoint_failures_total", None), 2.0);
}

#[tokio::test]
async fn a_checkpoint_goes_to_the_lanes_new_owner_when_the_old_one_declines_it() {
    let (mut a, mut b) = (Scheduler::start("a").await, Scheduler::start("b").await);
    let _worker = worker::start(&a, 4);
    let mut with_a = a.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    let mut with_b = b.welcome_to(LEASE, view(&[&a, &b], &[1, 2])).await;
    with_a.dispatch([counts(r#"{"n": 2, "every": 2}"#)]).await;
    let sent = checkpoint(&mut with_a).await;
    answer(&with_a, &sent, NotOwner).await;
    let moved = Response::ClusterView(view(&[&a, &b], &[2, 2]));
    with_b.say(moved).await;
    let again = checkpoint(&mut with_b).await;
    assert_eq!(again, sent);
    answer(&with_b, &again, Recorded).await;
    assert_eq!(&with_b.result().await.output[..], br#"{"from":0,"to":2}"#);
}

#[tokio::test]
async fn progress_is_told_at_most_once_a_second() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    stream
        .dispatch([counts(r#"{"n": 220, "step_ms": 10}"#)])
        .await;
    let mut told = Vec::new();
    loop {
        match stream.next().await {
            Some(Request::Progress(sent)) => told.extend(sent.reports),
            Some(Request::Results(_)) => break,
            _ => {}
        }
    }
    let done: Vec<u64> = told
        .iter()
        .filter_map(|report| Some(report.progress.as_ref()?.done))
        .collect();
    assert!((2..=6).contains(&done.len()), "{done:?}");
    assert!(done.is_sorted(), "{done:?}");
}
