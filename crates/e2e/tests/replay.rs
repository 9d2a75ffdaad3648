//! What a lane's owner holds in memory and what its chain says are the same.

mod lanes;

use std::time::Duration;

use anyhow::Result;
use e2e::{Rig, Tracker, hand_in, retry_policy, submission};
use proto::v1::Submission;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_done_every_chain_says_so_and_its_totals_are_the_rows() -> Result<()> {
    let rig = Rig::start(|options| options.worker_slots = 32).await?;
    let retried = |payload| Submission {
        retry_policy: Some(retry_policy(2, Duration::from_millis(100))),
        ..submission("fail", &payload)
    };
    let one = |number: usize| match number % 5 {
        0 => retried(json!({"times": 1})),
        1 => retried(json!({"permanent": number.is_multiple_of(2)})),
        2 => submission("sleep", &json!({"ms": 20})),
        _ => submission("noop", &json!({})),
    };
    let handed_in = hand_in(&rig.client, (0..800).map(one).collect()).await?;
    let tracker = Tracker::new(rig.client.clone());
    tracker.follow(&handed_in);
    tracker.until_all_ended(Duration::from_secs(30)).await?;
    lanes::assert_all_is_done(&rig).await?;
    rig.stop().await
}
