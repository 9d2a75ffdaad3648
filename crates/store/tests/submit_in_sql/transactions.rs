//! What a transaction hands in, and what of it is there when it is over.

use std::time::Duration;

use domain::lane::Class;
use domain::{Backoff, Growth, IdKey, LaneId, Micros, Priority, RetryPolicy};
use store::{ExecutionPlace, Head, KnowNames, ReadExecutions};

use crate::shop::{Answer, Shop, run, submit, value};

#[tokio::test]
async fn what_is_rolled_back_leaves_nothing_and_commits_are_read_in_either_order() {
    let mut shop = Shop::new().await;
    let (mut first, mut second) = (shop.begin().await, shop.begin().await);
    let mut given_up = shop.begin().await;
    let earlier = submit(&mut first, "'shop', 'noop'").await.unwrap();
    let keyed = "'shop', 'noop', idempotency_key => 'k', max_attempts => 7";
    submit(&mut given_up, keyed).await.unwrap();
    let later = submit(&mut second, "'shop', 'noop'").await.unwrap();
    assert_eq!(shop.read_inbox().await, [], "nothing is committed");

    run(&mut given_up, "rollback").await;
    run(&mut second, "commit").await;
    let read = shop.read_inbox().await;
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!(read[0].seq, later.id.seq());
    run(&mut first, "commit").await;
    let read = shop.read_inbox().await;
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!(read[0].seq, earlier.id.seq());
    assert_eq!(shop.read_inbox().await, []);
    for (table, rows) in [
        ("execution", 2),
        ("kept_execution", 0),
        ("inbox", 2),
        ("idempotency", 0),
        ("retry_policy", 1),
    ] {
        assert_eq!(shop.count(table).await, rows, "{table}");
    }
}

#[tokio::test]
async fn what_a_savepoint_takes_back_is_gone_and_the_rest_stays() {
    let mut shop = Shop::new().await;
    let mut connection = shop.begin().await;
    let kept = submit(&mut connection, "'shop', 'noop'").await.unwrap();
    run(&mut connection, "savepoint s").await;
    submit(&mut connection, "'shop', 'noop'").await.unwrap();
    submit(&mut connection, "'shop', 'none'").await.unwrap_err();
    run(&mut connection, "rollback to s").await;
    let last = submit(&mut connection, "'shop', 'noop'").await.unwrap();
    run(&mut connection, "commit").await;
    let read: Vec<u64> = shop.read_inbox().await.iter().map(|e| e.seq).collect();
    assert_eq!(read, [kept.id.seq(), last.id.seq()]);
}

#[tokio::test]
async fn an_execution_is_stored_as_it_was_submitted() {
    let mut shop = Shop::new().await;
    let mut connection = shop.connect().await;
    let all = r#"'shop', 'noop', payload => '\x00ff', queue => 'default', priority => 'critical',
        content_type => 'text/plain', labels => '{"team": "ops \"1\""}', headers => '{"X-Shop": "7"}',
        correlation_id => 'order-7', timeout => '90 seconds', max_attempts => 3,
        initial_backoff => '500 milliseconds', multiplier => 1.5, max_backoff => '1 minute',
        jitter => false, growth => 'linear', max_lost => 7, total_timeout => '2 hours'"#;
    let answer = submit(&mut connection, all).await.unwrap();
    let policy = RetryPolicy {
        max_attempts: 3,
        max_lost: 7,
        backoff: Backoff {
            growth: Growth::Linear,
            initial: Duration::from_millis(500),
            multiplier: 1.5,
            max: Duration::from_secs(60),
            jitter: false,
        },
        total: Some(Duration::from_secs(7_200)),
    };
    let class = Class {
        tenant: shop.tenant,
        queue: shop.queue,
        priority: Priority::Critical,
        job_type: noop(&shop).await,
        suspect: false,
    };
    let expected = Head {
        tenant: class.tenant,
        queue: class.queue,
        job_type: class.job_type,
        priority: class.priority,
        accepted: Micros(0),
        due: None,
        timeout: Duration::from_secs(90),
        retry_policy: shop.world.database.policy_number(&policy).await.unwrap(),
        trace: None,
        parent_span: None,
        request_at: None,
        tracestate: None,
        correlation_id: Some("order-7".into()),
        labels: [("team".to_owned(), "ops \"1\"".to_owned())].into(),
        headers: [("X-Shop".to_owned(), "7".to_owned())].into(),
        payload: b"\x00\xff"[..].into(),
        content_type: Some("text/plain".into()),
    };
    assert_eq!(stored(&shop, answer).await, format!("{expected:?}"));
    let read = shop.read_inbox().await;
    assert_eq!((read[0].class, read[0].due), (class, None));
    assert_eq!(read[0].home, answer.id.home());
}

#[tokio::test]
async fn what_is_left_out_or_null_is_as_the_api_has_it() {
    let shop = Shop::new().await;
    let mut connection = shop.connect().await;
    let usual = RetryPolicy::default();
    let expected = Head {
        tenant: shop.tenant,
        queue: shop.queue,
        job_type: noop(&shop).await,
        priority: Priority::Normal,
        accepted: Micros(0),
        due: None,
        timeout: domain::limits::DEFAULT_TIMEOUT,
        retry_policy: shop.world.database.policy_number(&usual).await.unwrap(),
        trace: None,
        parent_span: None,
        request_at: None,
        tracestate: None,
        correlation_id: None,
        labels: [].into(),
        headers: [].into(),
        payload: b""[..].into(),
        content_type: None,
    };
    for arguments in [
        "'shop', 'noop'",
        "'shop', 'noop', null, null, null, null, null, null, null, null, null, null, null, null, \
         null, null, null",
        "'shop', 'noop', queue => '', idempotency_key => '', due_at => '2001-02-03'",
    ] {
        let answer = submit(&mut connection, arguments).await.unwrap();
        assert_eq!(
            stored(&shop, answer).await,
            format!("{expected:?}"),
            "{arguments}"
        );
    }
    assert_eq!(shop.count("idempotency").await, 0);
    assert_eq!(
        shop.count("retry_policy").await,
        1,
        "equal ones share a number"
    );
}

#[tokio::test]
async fn equal_retry_policies_share_a_number_and_others_do_not() {
    let shop = Shop::new().await;
    let mut connection = shop.connect().await;
    let usual = RetryPolicy::default();
    let backoff = |change: fn(&mut Backoff)| {
        let mut policy = usual;
        change(&mut policy.backoff);
        policy
    };
    for (number, (arguments, policy)) in (1..).zip([
        ("max_attempts => 5", usual),
        (
            "max_attempts => 6",
            RetryPolicy {
                max_attempts: 6,
                ..usual
            },
        ),
        (
            "initial_backoff => '1 s'",
            backoff(|b| b.initial = Duration::from_secs(1)),
        ),
        ("multiplier => 2.5", backoff(|b| b.multiplier = 2.5)),
        (
            "max_backoff => '1 day'",
            backoff(|b| b.max = Duration::from_secs(86_400)),
        ),
        ("jitter => false", backoff(|b| b.jitter = false)),
        ("growth => 'fixed'", backoff(|b| b.growth = Growth::Fixed)),
        (
            "max_lost => 0",
            RetryPolicy {
                max_lost: 0,
                ..usual
            },
        ),
        (
            "total_timeout => '1 hour'",
            RetryPolicy {
                total: Some(Duration::from_secs(3_600)),
                ..usual
            },
        ),
    ]) {
        for _ in 0..2 {
            let answer = submit(&mut connection, &format!("'shop', 'noop', {arguments}")).await;
            let head = stored(&shop, answer.unwrap()).await;
            let ours = shop.world.database.policy_number(&policy).await.unwrap();
            assert!(
                head.contains(&format!("retry_policy: {ours}")),
                "{arguments}: {head}"
            );
        }
        assert_eq!(shop.count("retry_policy").await, number, "{arguments}");
    }
}

/// The execution's head as the id leads to it, whenever it was accepted.
async fn stored(shop: &Shop, answer: Answer) -> String {
    let (lane, home, seq) = (answer.id.lane(), answer.id.home(), answer.id.seq());
    let place = ExecutionPlace { lane, seq, home };
    let windows = &shop.world.windows;
    let stored = shop.world.database.execution(windows, shop.tenant, place);
    let mut head = stored.await.unwrap().expect("it is where its id says").head;
    assert!(
        head.accepted.since(shop.world.now) < Duration::from_secs(60),
        "{head:?}"
    );
    head.accepted = Micros(0);
    format!("{head:?}")
}

#[tokio::test]
async fn the_id_is_the_one_that_rust_makes_of_lane_number_and_time() {
    let mut shop = Shop::new().await;
    let mut connection = shop.connect().await;
    let answer = submit(&mut connection, "'shop', 'noop'").await.unwrap();
    assert!(answer.id.is_genuine(&IdKey::new([7; 16])), "{answer:?}");
    assert!(!answer.id.is_genuine(&IdKey::new([8; 16])), "{answer:?}");
    assert_eq!(answer.id.lane(), shop.lane.id());
    let read = shop.read_inbox().await;
    assert_eq!(
        (read[0].seq, read[0].home),
        (answer.id.seq(), answer.id.home())
    );
}

#[tokio::test]
async fn an_execution_for_later_is_at_home_in_its_time_near_and_far() {
    let mut shop = Shop::new().await;
    let mut connection = shop.connect().await;
    for (wait, place) in [("2 hours", "execution"), ("90 days", "kept_execution")] {
        let due =
            format!("select to_char(now() + interval '{wait}', 'YYYY-MM-DD HH24:MI:SS.USOF')");
        let due: String = value(&mut connection, &due).await;
        let arguments = format!("'shop', 'noop', due_at => '{due}'");
        let answer = submit(&mut connection, &arguments).await.unwrap();
        let micros = format!("select (extract(epoch from '{due}'::timestamptz) * 1000000)::int8");
        let due = Micros(value(&mut connection, &micros).await);
        assert_eq!(answer.id.home_ms(), due.millis());
        let head = stored(&shop, answer).await;
        assert!(head.contains(&format!("due: Some({due:?})")), "{head}");
        let rows = format!("{place} where seq = {}", answer.id.seq());
        assert_eq!(shop.count(&rows).await, 1, "{place}");
        let read = shop.read_inbox().await;
        assert_eq!((read[0].due, read[0].home), (Some(due), due.hour()));
    }
}

#[tokio::test]
async fn a_wide_queue_uses_its_lanes_in_turn_and_one_lane_for_a_key() {
    let shop = Shop::new().await;
    let mut connection = shop.begin().await;
    let mut lanes = Vec::new();
    for _ in 0..4 {
        let answer = submit(&mut connection, "'shop', 'noop', queue => 'wide'").await;
        lanes.push(answer.unwrap().id.lane().0);
    }
    lanes.sort_unstable();
    assert_eq!(lanes, [0, 1, 2, 3]);
    // SHA-256 of these begins with ca97, ba78 and 2cf2: gateways send them to these lanes of four.
    for (key, lane) in [("a", 3), ("abc", 0), ("hello", 2)] {
        for savepoint in ["savepoint s", "rollback to s"] {
            run(&mut connection, savepoint).await;
            let arguments = format!("'shop', 'noop', queue => 'wide', idempotency_key => '{key}'");
            let answer = submit(&mut connection, &arguments).await.unwrap();
            assert_eq!(
                (answer.id.lane(), answer.duplicate),
                (LaneId(lane), false),
                "{key}"
            );
        }
    }
}

/// The number of the type that the examples submit.
async fn noop(shop: &Shop) -> i32 {
    let number = shop.world.database.type_number(shop.tenant, "noop");
    number.await.unwrap().expect("it is known")
}
