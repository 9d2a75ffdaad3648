use proto::v1::submit_verdict::Verdict;
use proto::v1::{
    GetExecutionRequest, Refusal, Submission, SubmitBatchRequest, SubmitRequest, SubmitVerdict,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::running_gateway::{RunningGateway, signed, submission, within};
use crate::scripted_scheduler::{QUEUE, ScriptedScheduler, TENANT, dead_address, view};

fn single(payload: &str) -> tonic::Request<SubmitRequest> {
    signed(SubmitRequest {
        submission: Some(submission(payload)),
    })
}

fn batch(submissions: Vec<Submission>) -> tonic::Request<SubmitBatchRequest> {
    signed(SubmitBatchRequest { submissions })
}

fn on_queue(queue: &str, payload: &str) -> Submission {
    Submission {
        queue: queue.to_owned(),
        ..submission(payload)
    }
}

fn refusal(verdict: &SubmitVerdict) -> &Refusal {
    match &verdict.verdict {
        Some(Verdict::Refusal(refusal)) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

/// Submits `payloads` at the same time, and comes back when all of them wait behind the one that is
/// out: everything in this test's runtime runs in the order in which it came.
async fn submit_behind(
    gateway: &RunningGateway,
    payloads: impl Iterator<Item = String>,
) -> Vec<tokio::task::JoinHandle<Result<String, Status>>> {
    let client = gateway.client();
    let calls: Vec<_> = payloads
        .map(|payload| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let answer = client.submit(single(&payload)).await?;
                Ok(answer.into_inner().execution_id)
            })
        })
        .collect();
    for _ in 0..3 {
        let request = GetExecutionRequest {
            execution_id: format!("{:032x}", 1 << 18),
        };
        within(client.clone().get_execution(signed(request)))
            .await
            .unwrap();
    }
    calls
}

#[tokio::test]
async fn a_submission_reaches_the_owner_of_its_lane_with_its_principal() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let answer = within(gateway.client().submit(single("a"))).await.unwrap();
    assert_eq!(answer.into_inner().execution_id, "a");
    let forward = within(scheduler.forwards.recv()).await.unwrap();
    let [item] = forward.submissions.as_slice() else {
        panic!("{forward:?}")
    };
    assert_eq!((item.tenant, item.queue, item.lane), (TENANT, QUEUE, 0));
    assert_eq!(item.submission.as_ref().unwrap().queue, "default");
    let count = gateway.counter(
        "api_requests_total",
        &["GRPC", "/watchwork.v1.ExecutionService/Submit", "OK"],
    );
    assert_eq!(count, 1.0);
}

#[tokio::test]
async fn singles_that_come_while_one_is_out_travel_together() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    scheduler.close_gate();
    let first = submit_behind(&gateway, ["first".to_owned()].into_iter()).await;
    assert_eq!(
        within(scheduler.forwards.recv())
            .await
            .unwrap()
            .submissions
            .len(),
        1
    );

    let others = submit_behind(&gateway, (0..40).map(|number| number.to_string())).await;
    assert!(
        scheduler.forwards.try_recv().is_err(),
        "only one forward is out at a time"
    );
    scheduler.gate.add_permits(1);
    assert_eq!(
        within(scheduler.forwards.recv())
            .await
            .unwrap()
            .submissions
            .len(),
        40
    );
    scheduler.gate.add_permits(1);
    for (number, call) in others.into_iter().enumerate() {
        assert_eq!(within(call).await.unwrap().unwrap(), number.to_string());
    }
    assert_eq!(
        within(first.into_iter().next().unwrap())
            .await
            .unwrap()
            .unwrap(),
        "first"
    );
}

#[tokio::test]
async fn a_caller_that_leaves_takes_nobody_along() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    scheduler.close_gate();
    let first = submit_behind(&gateway, ["first".to_owned()].into_iter()).await;
    within(scheduler.forwards.recv()).await.unwrap();
    let mut others =
        submit_behind(&gateway, ["left", "stayed"].map(str::to_owned).into_iter()).await;

    // One leaves that waits, then the one that is out: only who stayed goes on.
    others.remove(0).abort();
    submit_behind(&gateway, std::iter::empty()).await;
    first[0].abort();
    let forward = within(scheduler.forwards.recv()).await.unwrap();
    assert_eq!(forward.submissions.len(), 1);
    scheduler.gate.add_permits(2);
    assert_eq!(within(others.remove(0)).await.unwrap().unwrap(), "stayed");
}

#[tokio::test]
async fn a_batchs_verdicts_come_back_in_order_from_all_owners() {
    let mut one = ScriptedScheduler::start("s1");
    let mut two = ScriptedScheduler::start("s2");
    let both = view(&[("s1", &one.address), ("s2", &two.address)], &[1, 2]);
    one.say_view(both);
    let gateway = RunningGateway::ready(&[&one.address]).await;
    let mut items: Vec<_> = (0..10).map(|n| on_queue("wide", &n.to_string())).collect();
    items[3].job_type = "not a type".to_owned();
    items[7].queue = "missing".to_owned();
    let verdicts = within(gateway.client().submit_batch(batch(items)))
        .await
        .unwrap();
    let verdicts = verdicts.into_inner().verdicts;
    for (index, verdict) in verdicts.iter().enumerate() {
        match index {
            3 => assert_eq!(
                (refusal(verdict).code, refusal(verdict).field.as_str()),
                (3, "job_type")
            ),
            7 => assert_eq!(
                (refusal(verdict).code, refusal(verdict).field.as_str()),
                (5, "queue")
            ),
            _ => assert_eq!(
                verdict.verdict,
                Some(Verdict::ExecutionId(index.to_string()))
            ),
        }
    }
    for scheduler in [&mut one, &mut two] {
        let forward = within(scheduler.forwards.recv()).await.unwrap();
        assert_eq!(forward.submissions.len(), 4, "lanes take turns");
    }
}

#[tokio::test]
async fn a_batch_has_one_to_a_thousand_items_and_eight_mib() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut client = gateway.client();
    let full = vec![submission("x"); 1_000];
    assert_eq!(
        client
            .submit_batch(batch(full))
            .await
            .unwrap()
            .into_inner()
            .verdicts
            .len(),
        1_000
    );
    let large = submission(&"x".repeat(1 << 20));
    for bad in [vec![], vec![submission("x"); 1_001], vec![large; 8]] {
        let items = bad.len();
        let status = within(client.submit_batch(batch(bad))).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{items} items: {status:?}"
        );
    }
}

#[tokio::test]
async fn what_is_for_a_lane_without_an_owner_goes_to_a_scheduler_that_leaves_it_there() {
    let mut scheduler = ScriptedScheduler::start("s1");
    scheduler.say_view(view(&[("s1", &scheduler.address)], &[0, 1]));
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut client = gateway.client();
    within(client.submit(single("a"))).await.unwrap();
    let both = vec![submission("a"), submission("b")];
    within(client.submit_batch(batch(both))).await.unwrap();
    for items in [1, 2] {
        let forward = within(scheduler.forwards.recv()).await.unwrap();
        let lanes = forward.submissions.iter().map(|item| item.lane);
        assert_eq!(lanes.collect::<Vec<_>>(), vec![0; items]);
    }
    // A queue with another lane that has an owner doesn't notice.
    let wide = SubmitRequest {
        submission: Some(on_queue("wide", "a")),
    };
    within(client.submit(signed(wide))).await.unwrap();
    let forward = within(scheduler.forwards.recv()).await.unwrap();
    assert_eq!(forward.submissions[0].lane, 1);
}

#[tokio::test]
async fn a_forward_that_broke_off_is_in_doubt() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    scheduler.close_gate();
    let mut client = gateway.client();
    let call = tokio::spawn(async move { client.submit(single("a")).await });
    within(scheduler.forwards.recv()).await.unwrap();
    scheduler.kill();
    let status = within(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("may or may not have been taken"),
        "{status:?}"
    );
    assert!(status.get_error_details().retry_info().is_none());
}

#[tokio::test]
async fn what_reached_nobody_goes_to_the_new_owner() {
    let scheduler = ScriptedScheduler::start("s1");
    let gone = dead_address();
    let before = view(&[("s1", &scheduler.address), ("gone", &gone)], &[2, 2]);
    scheduler.say_view(before);
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut client = gateway.client();
    let call = tokio::spawn(async move { client.submit(single("a")).await });
    scheduler.say_view(view(&[("s1", &scheduler.address)], &[1, 1]));
    assert_eq!(
        within(call)
            .await
            .unwrap()
            .unwrap()
            .into_inner()
            .execution_id,
        "a"
    );
}

#[tokio::test]
async fn a_queue_of_several_lanes_goes_past_an_owner_that_is_gone() {
    let scheduler = ScriptedScheduler::start("s1");
    let gone = dead_address();
    let schedulers = [("s1", scheduler.address.as_str()), ("gone", gone.as_str())];
    scheduler.say_view(view(&schedulers, &[1, 2]));
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let mut client = gateway.client();
    for number in 0..10 {
        let wide = Some(on_queue("wide", &number.to_string()));
        let request = signed(SubmitRequest { submission: wide });
        within(client.submit(request)).await.unwrap();
    }
}

#[tokio::test]
async fn what_reaches_nobody_was_not_taken() {
    let scheduler = ScriptedScheduler::start("s1");
    let gone = dead_address();
    scheduler.say_view(view(
        &[("s1", &scheduler.address), ("gone", &gone)],
        &[2, 2],
    ));
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let status = within(gateway.client().submit(single("a")))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("was not taken"), "{status:?}");
    assert!(status.get_error_details().retry_info().is_some());
}

#[tokio::test]
async fn what_a_scheduler_refuses_as_a_whole_is_in_doubt_too() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    *scheduler.failure.lock().unwrap() = Some(Status::unavailable("commit in doubt"));
    let answer = within(gateway.client().submit_batch(batch(vec![submission("a")])))
        .await
        .unwrap();
    let verdicts = answer.into_inner().verdicts;
    assert_eq!(refusal(&verdicts[0]).code, Code::Unavailable as i32);
    assert!(
        refusal(&verdicts[0]).message.contains("may or may not"),
        "{verdicts:?}"
    );
}
