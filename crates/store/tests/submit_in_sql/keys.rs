//! Idempotency keys, and who races for them.

use domain::{ToDo, key_hash};
use sqlx::PgConnection;
use store::{Batch, Error, KnownKey, NewKey, WriteLanes};
use tokio::task::JoinHandle;

use crate::shop::{Answer, Refused, Shop, run, submit};
use crate::world::submission;

const KEYED: &str = "'shop', 'noop', payload => 'one', idempotency_key => 'k'";
const OTHER: &str = "'shop', 'noop', payload => 'two', idempotency_key => 'k'";

#[tokio::test]
async fn a_key_names_one_execution_and_refuses_to_do_something_else() {
    let mut shop = Shop::new().await;
    let mut connection = shop.begin().await;
    let first = submit(&mut connection, KEYED).await.unwrap();
    assert!(!first.duplicate);
    let again = Answer {
        duplicate: true,
        ..first
    };
    assert_eq!(
        submit(&mut connection, KEYED).await,
        Ok(again),
        "in one transaction"
    );
    run(&mut connection, "commit").await;
    let mut other = shop.connect().await;
    assert_eq!(submit(&mut other, KEYED).await, Ok(again), "in another");
    let told_apart = format!("{KEYED}, labels => '{{\"a\": \"b\"}}', priority => 'low'");
    assert_eq!(
        submit(&mut other, &told_apart).await,
        Ok(again),
        "the same to do"
    );

    let conflict = submit(&mut other, OTHER).await.unwrap_err();
    assert_eq!(
        (&*conflict.code, &*conflict.field),
        ("WW409", "idempotency_key")
    );
    assert!(
        conflict.message.contains(&first.id.to_string()),
        "{conflict}"
    );

    shop.world
        .database
        .ensure_tenant("elsewhere")
        .await
        .unwrap();
    shop.execute(
        "insert into queue (tenant, name, lanes) select number, 'default', '{0}' from tenant
                  where name = 'elsewhere'",
    )
    .await;
    let theirs = submit(&mut other, &KEYED.replace("shop", "elsewhere"))
        .await
        .unwrap();
    assert!(!theirs.duplicate, "a key is its tenant's");
    let read: Vec<u64> = shop.read_inbox().await.iter().map(|e| e.seq).collect();
    assert!(
        read.contains(&first.id.seq()) && read.len() <= 2,
        "{read:?}"
    );
    assert_eq!(shop.count("execution").await, 2);
}

/// Submits on a connection of its own, which comes back with the answer.
fn submit_apart(
    mut connection: PgConnection,
    arguments: String,
) -> JoinHandle<(PgConnection, Result<Answer, Refused>)> {
    tokio::spawn(async move {
        let answer = submit(&mut connection, &arguments).await;
        (connection, answer)
    })
}

#[tokio::test]
async fn who_comes_second_waits_and_sees_what_became_of_the_first() {
    let shop = Shop::new().await;
    for (round, second_does, first_ends, told) in [
        (1, KEYED, "commit", Some("duplicate")),
        (2, OTHER, "commit", Some("conflict")),
        (3, OTHER, "rollback", None),
    ] {
        let of_round = |arguments: &str| arguments.replace("'k'", &format!("'k-{round}'"));
        let mut first = shop.begin().await;
        let winner = submit(&mut first, &of_round(KEYED)).await.unwrap();
        let second = submit_apart(shop.begin().await, of_round(second_does));
        shop.until_someone_waits().await;
        assert!(!second.is_finished());
        run(&mut first, first_ends).await;
        let (mut connection, answer) = second.await.unwrap();
        match told {
            Some("duplicate") => {
                let answer = answer.unwrap();
                assert_eq!((answer.id, answer.duplicate), (winner.id, true));
            }
            Some(_) => assert_eq!(answer.unwrap_err().code, "WW409"),
            None => assert!(!answer.unwrap().duplicate, "the first was never there"),
        }
        run(&mut connection, "commit").await;
        assert_eq!(shop.count("execution").await, round);
        assert_eq!(shop.count("inbox").await, round);
    }
}

#[tokio::test]
async fn a_transaction_that_cannot_see_the_first_has_to_run_again() {
    let shop = Shop::new().await;
    for isolation in ["repeatable read", "serializable"] {
        for waits in [false, true] {
            let arguments = KEYED.replace("'k'", &format!("'{isolation} {waits}'"));
            let mut second = shop.connect().await;
            let begin = format!("begin isolation level {isolation}; select 1 from tenant");
            run(&mut second, &begin).await;
            let mut first = shop.begin().await;
            let winner = submit(&mut first, &arguments).await.unwrap();
            if !waits {
                run(&mut first, "commit").await;
            }
            let second = submit_apart(second, arguments.clone());
            if waits {
                shop.until_someone_waits().await;
                run(&mut first, "commit").await;
            }
            let (mut second, answer) = second.await.unwrap();
            assert_eq!(answer.unwrap_err().code, "40001", "{isolation} {waits}");
            run(&mut second, "rollback").await;
            run(&mut second, &begin).await;
            let again = submit(&mut second, &arguments).await.unwrap();
            assert_eq!((again.id, again.duplicate), (winner.id, true));
        }
    }
}

/// What the lane's owner commits for the same submission through the API.
fn of_the_api(shop: &Shop) -> (Batch, KnownKey) {
    let mut batch = submission(&shop.lane, shop.world.now, 1, 0);
    let to_do = ToDo {
        queue: shop.queue,
        job_type: "noop",
        content_type: "",
        due: None,
        payload: b"one",
    };
    let known = KnownKey {
        key: key_hash(shop.tenant, "k"),
        fingerprint: to_do.fingerprint(),
        id: domain::ExecutionId::from_bytes([9; 16]),
    };
    batch.keys.push(NewKey {
        key: known.key,
        fingerprint: known.fingerprint,
        tenant: shop.tenant,
        id: known.id,
    });
    (batch, known)
}

#[tokio::test]
async fn the_owner_of_a_lane_does_not_wait_for_a_transaction_and_meets_its_key_afterwards() {
    let mut shop = Shop::new().await;
    let (batch, by_api) = of_the_api(&shop);
    let mut first = shop.begin().await;
    let winner = submit(&mut first, KEYED).await.unwrap();
    let blocked = shop.writer.commit(&shop.world.windows, &batch).await;
    assert!(matches!(blocked, Err(Error::Blocked { .. })), "{blocked:?}");
    run(&mut first, "commit").await;
    let taken = shop.writer.commit(&shop.world.windows, &batch).await;
    assert!(matches!(taken, Err(Error::KeyTaken { .. })), "{taken:?}");
    let known = shop.writer.known_keys(&[by_api.key]).await.unwrap();
    let by_sql = KnownKey {
        id: winner.id,
        ..by_api
    };
    assert_eq!(known, [by_sql], "the fingerprint is the API's");
}

#[tokio::test]
async fn a_transaction_waits_for_the_owners_commit_and_is_told_of_its_execution() {
    let mut shop = Shop::new().await;
    // The owner's statement has taken the key, and hangs at the execution until it may go on.
    shop.execute(
        "create table go_on ();
             create function wait() returns trigger language plpgsql as $$
             begin
                 perform pg_advisory_xact_lock(1);
                 while not exists (select from go_on) loop
                     perform pg_sleep(0.01);
                 end loop;
                 return new;
             end $$;
             create trigger wait before insert on execution for each row execute function wait();",
    )
    .await;
    let (batch, by_api) = of_the_api(&shop);
    let windows = shop.world.windows.clone();
    let mut writer = store::Writer::new(shop.world.database.clone());
    let owner = tokio::spawn(async move { writer.commit(&windows, &batch).await });
    shop.until("select count(*) from pg_locks where locktype = 'advisory' and objid = 1")
        .await;
    let second = submit_apart(shop.connect().await, KEYED.to_owned());
    shop.until_someone_waits().await;
    shop.execute("insert into go_on default values").await;
    owner.await.unwrap().unwrap();
    let (mut connection, answer) = second.await.unwrap();
    let answer = answer.unwrap();
    assert_eq!((answer.id, answer.duplicate), (by_api.id, true));
    let conflict = submit(&mut connection, OTHER).await.unwrap_err();
    assert_eq!(conflict.code, "WW409");
    assert_eq!(shop.read_inbox().await, []);
}
