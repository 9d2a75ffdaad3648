use std::collections::HashSet;

use prost_types::Timestamp;
use proto::v1::submit_verdict::Verdict;
use proto::v1::{Submission, SubmitBatchRequest, SubmitRequest, SubmitResponse};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::running_gateway::{RunningGateway, signed, submission, within};
use crate::scripted_scheduler::{KNOWN_KEY, OTHERS_KEY, ScriptedScheduler, view};

fn keyed(key: &str) -> Submission {
    Submission {
        idempotency_key: key.to_owned(),
        ..submission("a")
    }
}

async fn submit(
    gateway: &RunningGateway,
    submission: Submission,
) -> Result<SubmitResponse, Status> {
    let submission = Some(submission);
    let request = signed(SubmitRequest { submission });
    within(gateway.client().submit(request))
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test]
async fn who_submits_again_is_told_that_nothing_was_added() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let again = submit(&gateway, keyed(KNOWN_KEY)).await.unwrap();
    assert_eq!((again.execution_id.as_str(), again.duplicate), ("a", true));
    let first = submit(&gateway, keyed("new")).await.unwrap();
    assert!(!first.duplicate);

    let submissions = vec![keyed("new"), keyed(KNOWN_KEY), keyed(OTHERS_KEY)];
    let request = signed(SubmitBatchRequest { submissions });
    let answer = within(gateway.client().submit_batch(request))
        .await
        .unwrap();
    let verdicts = answer.into_inner().verdicts;
    let duplicates: Vec<_> = verdicts.iter().map(|verdict| verdict.duplicate).collect();
    assert_eq!(duplicates, [false, true, false]);
    let Some(Verdict::Refusal(refusal)) = &verdicts[2].verdict else {
        panic!("{verdicts:?}")
    };
    assert_eq!(
        (refusal.code, refusal.field.as_str()),
        (Code::AlreadyExists as i32, "idempotency_key")
    );
}

#[tokio::test]
async fn a_key_that_stands_for_something_else_is_a_conflict() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let status = submit(&gateway, keyed(OTHERS_KEY)).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "submission.idempotency_key");
    let info = details.error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("IDEMPOTENCY_CONFLICT", "watchwork")
    );
    assert!(details.retry_info().is_none(), "it will stay a conflict");
}

#[tokio::test]
async fn a_key_goes_to_the_same_lane_each_time_and_keys_to_all_lanes() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    // Another gateway chooses the same.
    let second = RunningGateway::ready(&[&scheduler.address]).await;
    let wide = |key: &str| Submission {
        queue: "wide".to_owned(),
        ..keyed(key)
    };
    let mut used = HashSet::new();
    for number in 0..20 {
        let key = format!("order-{number}");
        submit(&gateway, wide(&key)).await.unwrap();
        submit(&gateway, wide(&key)).await.unwrap();
        submit(&second, wide(&key)).await.unwrap();
        let submissions = vec![wide(&key); 2];
        let request = signed(SubmitBatchRequest { submissions });
        within(gateway.client().submit_batch(request))
            .await
            .unwrap();
        let mut lanes = HashSet::new();
        while let Ok(forward) = scheduler.forwards.try_recv() {
            lanes.extend(forward.submissions.iter().map(|item| item.lane));
        }
        assert_eq!(lanes.len(), 1, "{key} went to {lanes:?}");
        used.extend(lanes);
    }
    assert_eq!(used, HashSet::from([0, 1]));
}

#[tokio::test]
async fn a_key_goes_past_a_lane_that_nobody_owns() {
    let mut scheduler = ScriptedScheduler::start("s1");
    scheduler.say_view(view(&[("s1", &scheduler.address)], &[0, 1]));
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    for number in 0..10 {
        let wide = Submission {
            queue: "wide".to_owned(),
            ..keyed(&format!("order-{number}"))
        };
        submit(&gateway, wide).await.unwrap();
        let forward = within(scheduler.forwards.recv()).await.unwrap();
        assert_eq!(forward.submissions[0].lane, 1);
    }
}

#[tokio::test]
async fn a_due_time_is_passed_on_as_it_was_given_or_refused_by_name() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let due = |seconds, nanos| Submission {
        due_at: Some(Timestamp { seconds, nanos }),
        ..submission("a")
    };
    submit(&gateway, due(1, 2)).await.unwrap();
    let forward = within(scheduler.forwards.recv()).await.unwrap();
    let sent = forward.submissions[0].submission.as_ref().unwrap();
    assert_eq!(sent.due_at, due(1, 2).due_at, "what is past is due now");
    // The year 9999, and no time at all.
    for bad in [due(253_402_300_799, 0), due(i64::MIN, 0), due(1, -1)] {
        let status = submit(&gateway, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "submission.due_at");
    }
    assert!(scheduler.forwards.try_recv().is_err(), "nothing was sent");
}
