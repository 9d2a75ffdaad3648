//! Who may submit, and that nobody gets more by it.

use crate::shop::{Shop, bare, run, submit, try_run};

#[tokio::test]
async fn a_submitter_may_submit_and_nothing_else() {
    let shop = Shop::new().await;
    let mut connection = shop.connect().await;
    run(&mut connection, "set role watchwork_submitter").await;
    let keyed = "'shop', 'noop', idempotency_key => 'k', labels => '{\"a\": \"b\"}'";
    submit(&mut connection, keyed).await.unwrap();
    for forbidden in [
        "select * from execution",
        "select * from inbox",
        "select * from kept_execution",
        "select id_key from installation",
        "select * from tenant",
        "insert into tenant (name) values ('x')",
        "insert into retry_policy values (default, 1, 1, 1, 1, true)",
        "select nextval('ext_seq')",
        "select watchwork.execution_id('', 1::int2, 1, now())",
        "select watchwork.take_key(gen_random_uuid(), 1, 1, gen_random_uuid(), now())",
        "create table watchwork.mine ()",
    ] {
        let refused = try_run(&mut connection, forbidden)
            .await
            .expect_err(forbidden);
        assert_eq!(refused.code, "42501", "{forbidden}: {refused}");
    }
}

#[tokio::test]
async fn nobody_else_may_submit() {
    let (_fresh, _, mut connection) = bare().await;
    // A role that every server has, with rights of quite another kind.
    run(&mut connection, "set role pg_signal_backend").await;
    let refused = submit(&mut connection, "'shop', 'noop'").await.unwrap_err();
    assert_eq!(refused.code, "42501", "{refused}");
    run(
        &mut connection,
        "reset role; grant usage on schema watchwork to pg_signal_backend",
    )
    .await;
    run(&mut connection, "set role pg_signal_backend").await;
    let refused = submit(&mut connection, "'shop', 'noop'").await.unwrap_err();
    assert_eq!(refused.code, "42501", "{refused}");
}

#[tokio::test]
async fn tables_of_the_callers_own_of_the_same_names_are_left_alone() {
    let shop = Shop::new().await;
    let mut connection = shop.connect().await;
    let theirs = "create schema app;
         create table app.execution (id int); create table app.queue (id int);
         create table app.tenant (id int); create table app.inbox (id int);
         grant usage on schema app to watchwork_submitter;
         set role watchwork_submitter;
         create temp table installation (id_key bytea); create temp table job_type (name text);
         set search_path = app, pg_temp";
    run(&mut connection, theirs).await;
    let answer = submit(&mut connection, "'shop', 'noop'").await.unwrap();
    assert!(
        answer.id.is_genuine(&domain::IdKey::new([7; 16])),
        "{answer:?}"
    );
    let path = "do $$ begin
             assert current_setting('search_path') = 'app, pg_temp', 'the path is another one now';
         end $$";
    run(&mut connection, path).await;
    assert_eq!(shop.count("public.execution").await, 1);
}
