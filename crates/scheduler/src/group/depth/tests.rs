use std::time::{Duration, SystemTime};

use domain::lane::{Class, Row};
use domain::{Micros, Priority, RetryPolicy};
use store::{Head, Queue, QueueOptions};

use super::*;
use crate::shared::Work;

const TENANT: i32 = 7;
const LANE: LaneId = LaneId(2);

fn head(queue: i32, due: Option<Micros>) -> Head {
    Head {
        tenant: TENANT,
        queue,
        job_type: 1,
        priority: Priority::Normal,
        accepted: Micros(0),
        due,
        timeout: Duration::from_secs(1),
        retry_policy: 1,
        trace: None,
        parent_span: None,
        request_at: None,
        tracestate: None,
        correlation_id: None,
        labels: BTreeMap::new(),
        headers: BTreeMap::new(),
        payload: bytes::Bytes::new(),
        content_type: None,
    }
}

/// Something for a queue of so many lanes.
fn item(queue: i32, lanes: u16, due: Option<Micros>) -> Incoming {
    let work = Work {
        head: Arc::new(head(queue, due)),
        tenant: Arc::from("shop"),
        queue: Arc::new(Queue {
            number: queue,
            tenant: TENANT,
            name: "orders".to_owned(),
            lanes: (0..lanes).map(LaneId).collect(),
        }),
        job_type: Arc::from("t"),
        policy: RetryPolicy::default(),
        reopened: None,
    };
    Incoming {
        lane: LANE,
        work: Arc::new(work),
        arrived: SystemTime::UNIX_EPOCH,
        key: None,
    }
}

/// A lane in which so many wait in each of these queues.
fn lanes(waiting: &[(i32, u32)]) -> BTreeMap<LaneId, Lane> {
    let mut lane = Lane::begin(&Row::genesis(LANE, Micros(0))).unwrap();
    let mut draft = lane.draft(Micros(1));
    for (queue, count) in waiting {
        let class = Class {
            tenant: TENANT,
            queue: *queue,
            priority: Priority::Low,
            job_type: 3,
            suspect: false,
        };
        // Some ran already: they don't count.
        draft.accept(class, *count + 5);
        draft.claim(class, 5, &Arc::from("worker-1"));
    }
    let row = draft.seal(1);
    lane.apply(&row).unwrap();
    [(LANE, lane)].into()
}

fn queue_limit(queue: i32, most: u64) -> Options {
    let options = QueueOptions {
        max_depth: Some(most),
        ..QueueOptions::default()
    };
    Options {
        queues: [(queue, options)].into(),
        ..Options::default()
    }
}

/// How many of a hundred of these are taken, and what the first that isn't is told.
fn taken(lanes: &BTreeMap<LaneId, Lane>, options: &Options, item: &Incoming) -> (usize, String) {
    let limits = Limits { lanes, options };
    let mut depths = Depths::default();
    let verdicts: Vec<_> = (0..100).map(|_| depths.admit(&limits, item)).collect();
    let refusal = verdicts.iter().find_map(|verdict| verdict.as_ref().err());
    let told = refusal.map(ToString::to_string).unwrap_or_default();
    (
        verdicts.iter().filter(|verdict| verdict.is_ok()).count(),
        told,
    )
}

#[test]
fn a_queue_takes_what_its_depth_leaves_room_for_and_its_batch_counts() {
    let lanes = lanes(&[(1, 30), (2, 500)]);
    let (count, told) = taken(&lanes, &queue_limit(1, 40), &item(1, 1, None));
    assert_eq!(count, 10);
    assert!(
        told.contains("\"orders\" is full: 40 executions wait"),
        "{told}"
    );
    assert!(told.contains("max_depth is 40"), "{told}");
    assert_eq!(taken(&lanes, &queue_limit(1, 40), &item(2, 1, None)).0, 100);
    assert_eq!(taken(&lanes, &queue_limit(1, 0), &item(1, 1, None)).0, 0);
}

#[test]
fn each_lane_of_a_queue_has_an_even_share_of_its_depth() {
    let lanes = lanes(&[(1, 30)]);
    let (count, told) = taken(&lanes, &queue_limit(1, 100), &item(1, 3, None));
    assert_eq!(count, 4, "a third is 34");
    assert!(
        told.contains("full in lane 2") && told.contains("is 34"),
        "{told}"
    );
}

#[test]
fn a_tenants_depth_is_that_of_all_its_queues_here() {
    let lanes = lanes(&[(1, 30), (2, 20)]);
    let options = Options {
        tenant_depths: [(TENANT, 60)].into(),
        ..Options::default()
    };
    let (count, told) = taken(&lanes, &options, &item(3, 1, None));
    assert_eq!(count, 10);
    assert!(told.contains("tenant \"shop\""), "{told}");
}

#[test]
fn what_is_due_later_is_not_limited() {
    let item = item(1, 1, Some(Micros(9)));
    assert_eq!(taken(&lanes(&[(1, 30)]), &queue_limit(1, 1), &item).0, 100);
}

#[test]
fn what_may_be_refused_is_known_before_anything_is() {
    let (lanes, options) = (lanes(&[(1, 30)]), queue_limit(1, 32));
    let limits = Limits {
        lanes: &lanes,
        options: &options,
    };
    let items = vec![item(1, 1, None); 3];
    assert!(!limits.may_refuse(items[..2].iter()));
    assert!(limits.may_refuse(items.iter()));
}
