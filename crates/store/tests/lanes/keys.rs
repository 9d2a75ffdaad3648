//! Idempotency keys.

use std::time::Duration;

use domain::lane::Lane;
use domain::{ExecutionId, Micros};
use sqlx::Connection;
use store::{Batch, Error, KnownKey, NewKey, Writer};

use crate::world::*;

/// A batch with one execution that has an idempotency key.
fn keyed(lane: &Lane, at: Micros, key: [u8; 16]) -> Batch {
    let mut batch = submission(lane, at, 1, 0);
    batch.keys.push(NewKey {
        key,
        fingerprint: 5,
        tenant: 1,
        id: ExecutionId::from_bytes([key[0]; 16]),
    });
    batch
}

#[tokio::test]
async fn a_key_that_is_known_refuses_the_batch_and_tells_whom_it_names() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let first = keyed(&lane, world.now, [1; 16]);
    writer.commit(&world.windows, &first).await.unwrap();
    apply(&mut lane, &first);
    let mut again = keyed(&lane, world.now, [1; 16]);
    again.keys.extend(keyed(&lane, world.now, [2; 16]).keys);
    let refused = writer.commit(&world.windows, &again).await;
    assert!(
        matches!(refused, Err(Error::KeyTaken { .. })),
        "{refused:?}"
    );
    assert_eq!(
        writer.replay(lane.id()).await.unwrap(),
        lane,
        "nothing of it is there"
    );
    let known = writer.known_keys(&[[1; 16], [2; 16]]).await.unwrap();
    let named = |known: &KnownKey| (known.key, known.fingerprint, known.id);
    let expected = ([1; 16], 5, ExecutionId::from_bytes([1; 16]));
    assert_eq!(known.iter().map(named).collect::<Vec<_>>(), [expected]);
}

#[tokio::test]
async fn a_key_of_yesterday_is_known_today() {
    let mut world = World::new().await;
    let (lane, mut writer, _) = world.owner().await;
    world
        .execute(
            "create table idempotency_yesterday partition of idempotency for values
                 from (-2147483648) to (0);
             create or replace function idempotency_window(at timestamptz) returns int4
                 language sql immutable as $$ select -24 $$",
        )
        .await;
    let first = keyed(&lane, world.now, [1; 16]);
    writer.commit(&world.windows, &first).await.unwrap();
    world
        .execute(
            "update pg_proc set prosrc = ' select 0 ' where proname = 'idempotency_window';
             create table idempotency_today partition of idempotency for values from (0) to (24)",
        )
        .await;
    let mut writer = Writer::new(world.database.clone());
    let lane = writer.replay(lane.id()).await.unwrap();
    let refused = writer
        .commit(&world.windows, &keyed(&lane, world.now, [1; 16]))
        .await;
    assert!(
        matches!(refused, Err(Error::KeyTaken { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_foreign_transaction_that_holds_a_key_is_not_waited_for() {
    let mut world = World::new().await;
    let (lane, mut writer, _) = world.owner().await;
    let mut foreign = sqlx::PgConnection::connect(world.fresh.url())
        .await
        .unwrap();
    let insert = "begin; insert into idempotency
         select idempotency_window(now()), '01010101-0101-0101-0101-010101010101', 1, 1,
             '00000000-0000-0000-0000-000000000000'";
    sqlx::raw_sql(insert).execute(&mut foreign).await.unwrap();
    let begin = std::time::Instant::now();
    let blocked = writer
        .commit(&world.windows, &keyed(&lane, world.now, [1; 16]))
        .await;
    assert!(matches!(blocked, Err(Error::Blocked { .. })), "{blocked:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    writer
        .commit(&world.windows, &keyed(&lane, world.now, [2; 16]))
        .await
        .unwrap();
}
