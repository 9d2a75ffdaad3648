//! What is refused, and how: as the API has it.

use domain::limits;
use store::KnowNames;

use crate::shop::{Shop, bare, run, submit};

/// Arguments just within the limits.
const LEGAL: [&str; 29] = [
    "payload => null, content_type => null, idempotency_key => 'of what is null'",
    "payload => decode(repeat('00', 1048576), 'hex')",
    "priority => 'critical'",
    "priority => 'high'",
    "priority => 'low'",
    "content_type => repeat('x', 127)",
    "content_type => ' ~'",
    "due_at => '1970-01-01 00:00:00+00'",
    "due_at => clock_timestamp() + interval '87840 hours'",
    "idempotency_key => repeat('ä', 127) || 'a'",
    "labels => '{}'",
    "labels => (select jsonb_object_agg(i, 'x') from generate_series(1, 16) i)",
    "labels => jsonb_build_object(repeat('ä', 63), repeat('ä', 255))",
    "headers => (select jsonb_object_agg(i, 'x') from generate_series(1, 32) i)",
    "headers => jsonb_build_object(repeat('x', 64), '')",
    "headers => jsonb_build_object('A', repeat('x', 8191))",
    "correlation_id => repeat('x', 126) || ':-'",
    "timeout => '1 millisecond'",
    "timeout => '1 day'",
    "max_attempts => 1",
    "max_attempts => 1000",
    "initial_backoff => '0', max_backoff => '0'",
    "initial_backoff => '24 hours', max_backoff => '24 hours'",
    "growth => 'linear', max_lost => 0",
    "growth => 'fixed', max_lost => 100",
    "total_timeout => '1 millisecond'",
    "total_timeout => '10 years'",
    "multiplier => 1",
    "multiplier => 100",
];

/// Arguments just beyond them, and the field at fault.
const ILLEGAL: [(&str, &str); 52] = [
    ("payload => decode(repeat('00', 1048577), 'hex')", "payload"),
    ("priority => 'urgent'", "priority"),
    ("priority => 'High'", "priority"),
    ("priority => ''", "priority"),
    ("content_type => repeat('x', 128)", "content_type"),
    ("content_type => 'text/ä'", "content_type"),
    ("content_type => E'text\\n'", "content_type"),
    (
        "due_at => clock_timestamp() + interval '87841 hours'",
        "due_at",
    ),
    ("due_at => '1969-12-31 23:59:59+00'", "due_at"),
    ("due_at => 'infinity'", "due_at"),
    ("due_at => '-infinity'", "due_at"),
    ("idempotency_key => repeat('ä', 128)", "idempotency_key"),
    ("labels => '[]'", "labels"),
    ("labels => 'null'", "labels"),
    ("labels => '{\"a\": 1}'", "labels"),
    ("labels => '{\"a\": null}'", "labels"),
    ("labels => '{\"\": \"x\"}'", "labels"),
    (
        "labels => (select jsonb_object_agg(i, 'x') from generate_series(1, 17) i)",
        "labels",
    ),
    (
        "labels => jsonb_build_object(repeat('x', 64), 'x')",
        "labels",
    ),
    (
        "labels => jsonb_build_object('x', repeat('x', 256))",
        "labels",
    ),
    ("headers => '\"a\"'", "headers"),
    ("headers => '{\"a\": {}}'", "headers"),
    ("headers => '{\"\": \"x\"}'", "headers"),
    ("headers => '{\"a b\": \"x\"}'", "headers"),
    ("headers => '{\"ä\": \"x\"}'", "headers"),
    ("headers => '{\"TraceParent\": \"x\"}'", "headers"),
    ("headers => '{\"tracestate\": \"x\"}'", "headers"),
    ("headers => '{\"X-CORRELATION-ID\": \"x\"}'", "headers"),
    ("headers => '{\"a\": \"ä\"}'", "headers"),
    ("headers => '{\"a\": \"x\\n\"}'", "headers"),
    (
        "headers => (select jsonb_object_agg(i, 'x') from generate_series(1, 33) i)",
        "headers",
    ),
    (
        "headers => jsonb_build_object(repeat('x', 65), 'x')",
        "headers",
    ),
    (
        "headers => jsonb_build_object('A', repeat('x', 8192))",
        "headers",
    ),
    ("correlation_id => repeat('x', 129)", "correlation_id"),
    ("correlation_id => 'a b'", "correlation_id"),
    ("timeout => '999 microseconds'", "timeout"),
    ("timeout => '1 day 1 microsecond'", "timeout"),
    ("timeout => '-1 hour'", "timeout"),
    ("max_attempts => 0", "max_attempts"),
    ("max_attempts => 1001", "max_attempts"),
    ("initial_backoff => '-1 microsecond'", "initial_backoff"),
    (
        "initial_backoff => '1 day 1 microsecond'",
        "initial_backoff",
    ),
    ("max_backoff => '-1 microsecond'", "max_backoff"),
    ("max_backoff => '1 month'", "max_backoff"),
    ("growth => 'sometimes'", "growth"),
    ("max_lost => -1", "max_lost"),
    ("max_lost => 101", "max_lost"),
    ("total_timeout => '0'", "total_timeout"),
    ("total_timeout => '11 years'", "total_timeout"),
    ("multiplier => 0.99", "multiplier"),
    ("multiplier => 100.1", "multiplier"),
    ("multiplier => 'NaN'", "multiplier"),
];

#[tokio::test]
async fn what_is_within_the_limits_is_taken_and_what_is_beyond_is_refused_by_field() {
    let shop = Shop::new().await;
    let mut connection = shop.connect().await;
    for arguments in LEGAL {
        let answer = submit(&mut connection, &format!("'shop', 'noop', {arguments}")).await;
        assert!(answer.is_ok(), "{arguments}: {answer:?}");
    }
    for (arguments, field) in ILLEGAL {
        let answer = submit(&mut connection, &format!("'shop', 'noop', {arguments}")).await;
        let refused = answer.expect_err(arguments);
        assert_eq!(
            (&*refused.code, &*refused.field),
            ("22023", field),
            "{arguments}"
        );
        assert!(
            refused.message.starts_with(&format!("{field}: ")),
            "{arguments}: {refused}"
        );
        assert!(refused.message.len() < 200, "{arguments}: {refused}");
    }
    assert_eq!(shop.count("inbox").await, LEGAL.len() as i64);
}

/// Names that tell apart how two languages read what a name may be.
const NAMES: [&str; 21] = [
    "a",
    "0",
    "mail.out_1-x",
    "A",
    "App/Mail::Send-v1",
    ".a",
    "-a",
    "_a",
    "/a",
    ":a",
    "a b",
    "a/b",
    "ä",
    "aä",
    "é",
    "ı",
    "ſ",
    "a\n",
    "\na",
    "a\u{7f}",
    "９",
];

#[tokio::test]
async fn names_are_legal_where_rust_says_so() {
    let shop = Shop::new().await;
    let mut connection = shop.connect().await;
    let long = [128, 129].map(|length| "q".repeat(length));
    for name in NAMES.into_iter().chain(long.iter().map(String::as_str)) {
        let a_name = |field| limits::check_name(field, name).is_ok();
        let a_type = limits::check_type_name("job_type", name).is_ok();
        for (field, arguments, legal) in [
            ("tenant", format!("$q${name}$q$, 'noop'"), a_name("tenant")),
            (
                "queue",
                format!("'shop', 'noop', queue => $q${name}$q$"),
                a_name("queue"),
            ),
            ("job_type", format!("'shop', $q${name}$q$"), a_type),
        ] {
            let refused = submit(&mut connection, &arguments).await.unwrap_err();
            let code = if legal { "WW404" } else { "22023" };
            assert_eq!(
                (&*refused.code, &*refused.field),
                (code, field),
                "{name:?}: {refused}"
            );
        }
    }
    for nameless in ["null, 'noop'", "'', 'noop'", "'shop', null", "'shop', ''"] {
        let refused = submit(&mut connection, nameless).await.unwrap_err();
        assert_eq!(refused.code, "22023", "{nameless}: {refused}");
    }
}

#[tokio::test]
async fn another_tenants_queue_is_unknown() {
    let shop = Shop::new().await;
    let database = &shop.world.database;
    let elsewhere = database.ensure_tenant("elsewhere").await.unwrap();
    database
        .ensure_queue(elsewhere, "theirs", &[domain::LaneId(0)])
        .await
        .unwrap();
    let mut connection = shop.connect().await;
    submit(&mut connection, "'elsewhere', 'noop', queue => 'theirs'")
        .await
        .unwrap();
    let refused = submit(&mut connection, "'shop', 'noop', queue => 'theirs'")
        .await
        .unwrap_err();
    assert_eq!(
        (&*refused.code, &*refused.field),
        ("WW404", "queue"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_type_is_known_that_was_announced_for_the_tenant_or_for_all() {
    let mut shop = Shop::new().await;
    let database = shop.world.database.clone();
    let elsewhere = database.ensure_tenant("elsewhere").await.unwrap();
    database
        .announce_types(elsewhere, &["theirs".into()])
        .await
        .unwrap();
    database
        .announce_types(shop.tenant, &["noop".into(), "ours".into()])
        .await
        .unwrap();
    let mut connection = shop.connect().await;
    let refused = submit(&mut connection, "'shop', 'theirs'")
        .await
        .unwrap_err();
    assert_eq!(
        (&*refused.code, &*refused.field),
        ("WW404", "job_type"),
        "{refused}"
    );
    for name in ["noop", "ours"] {
        submit(&mut connection, &format!("'shop', '{name}'"))
            .await
            .unwrap();
        let number = database.type_number(shop.tenant, name).await.unwrap();
        let read = shop.read_inbox().await;
        assert_eq!(Some(read[0].class.job_type), number, "{name}");
    }
}

#[tokio::test]
async fn a_database_that_no_scheduler_has_made_ready_takes_nothing() {
    let (_fresh, database, mut connection) = bare().await;
    let refused = submit(&mut connection, "'shop', 'noop'").await.unwrap_err();
    assert_eq!(
        (&*refused.code, &*refused.field),
        ("WW404", "tenant"),
        "{refused}"
    );
    let tenant = database.ensure_tenant("shop").await.unwrap();
    database
        .ensure_queue(tenant, "default", &[domain::LaneId(0)])
        .await
        .unwrap();
    database.announce_types(0, &["noop".into()]).await.unwrap();
    let refused = submit(&mut connection, "'shop', 'noop'").await.unwrap_err();
    assert_eq!(refused.code, "WW503", "{refused}");
}

#[tokio::test]
async fn without_windows_for_now_nothing_is_taken() {
    let shop = Shop::new().await;
    let mut connection = shop.connect().await;
    for table in ["idempotency", "inbox"] {
        run(&mut connection, "begin").await;
        let lost = format!("delete from \"window\" where table_name = '{table}'");
        run(&mut connection, &lost).await;
        let keyed = "'shop', 'noop', idempotency_key => 'k'";
        let refused = submit(&mut connection, keyed).await.unwrap_err();
        assert_eq!(refused.code, "WW503", "{table}: {refused}");
        run(&mut connection, "rollback").await;
    }
}
