//! Keys at the turn of the day, which comes when a test says so.

use domain::lane::Lane;
use domain::{ExecutionId, key_hash};
use store::{Batch, Error, NewKey, WriteLanes, Writer};

use crate::shop::{Shop, run, submit, value};
use crate::world::submission;

const KEYED: &str = "'shop', 'noop', idempotency_key => 'k'";

/// Puts midnight `away` from now: the day before it is the first that there is a window for.
async fn midnight(shop: &Shop, away: &str) {
    let mut connection = shop.connect().await;
    let first =
        "select from_hour from \"window\" where table_name = 'idempotency' order by 1 limit 1";
    let first: i32 = value(&mut connection, first).await;
    let at = format!("select extract(epoch from clock_timestamp() + interval '{away}')::int8");
    let at: i64 = value(&mut connection, &at).await;
    let moved = format!(
        "create or replace function idempotency_window(at timestamptz) returns int4
             language sql immutable as $$
             select (floor((extract(epoch from at) - {at}) / 86400) * 24)::int4 + {first} + 24
         $$"
    );
    run(&mut connection, &moved).await;
}

/// What an owner commits that was submitted under the same key, and what becomes of it.
async fn commit_of_an_owner(shop: &Shop, lane: &Lane) -> Result<(), Error> {
    let mut batch: Batch = submission(lane, shop.world.now, 1, 0);
    batch.keys.push(NewKey {
        key: key_hash(shop.tenant, "k"),
        fingerprint: 1,
        tenant: shop.tenant,
        id: ExecutionId::from_bytes([9; 16]),
    });
    let mut writer = Writer::new(shop.world.database.clone());
    writer.commit(&shop.world.windows, &batch).await
}

#[tokio::test]
async fn a_key_that_was_used_before_midnight_is_met_after_it() {
    let shop = Shop::new().await;
    midnight(&shop, "1 hour").await;
    let mut late = shop.begin().await;
    let first = submit(&mut late, KEYED).await.unwrap();
    midnight(&shop, "-1 hour").await;
    let blocked = commit_of_an_owner(&shop, &shop.lane).await;
    assert!(matches!(blocked, Err(Error::Blocked { .. })), "{blocked:?}");
    run(&mut late, "commit").await;
    let taken = commit_of_an_owner(&shop, &shop.lane).await;
    assert!(matches!(taken, Err(Error::KeyTaken { .. })), "{taken:?}");
    let again = submit(&mut late, KEYED).await.unwrap();
    assert_eq!((again.id, again.duplicate), (first.id, true));
}

#[tokio::test]
async fn a_key_that_only_yesterday_knows_is_known_today() {
    let shop = Shop::new().await;
    midnight(&shop, "1 hour").await;
    let mut blind = shop.connect().await;
    let begin = "begin isolation level repeatable read; select 1 from tenant";
    run(&mut blind, begin).await;
    commit_of_an_owner(&shop, &shop.lane).await.unwrap();
    assert_eq!(
        shop.count("idempotency").await,
        1,
        "in the window of that day alone"
    );
    midnight(&shop, "-30 seconds").await;
    let mut connection = shop.connect().await;
    let known = submit(&mut connection, KEYED).await.unwrap_err();
    assert_eq!(known.code, "WW409", "{known}");
    let unseen = submit(&mut blind, KEYED).await.unwrap_err();
    assert_eq!(unseen.code, "40001", "{unseen}");
}

#[tokio::test]
async fn a_key_that_comes_into_use_just_after_midnight_makes_the_transaction_run_again() {
    let shop = Shop::new().await;
    midnight(&shop, "-1 hour").await;
    commit_of_an_owner(&shop, &shop.lane).await.unwrap();
    midnight(&shop, "1 hour").await;
    let mut connection = shop.connect().await;
    let half_won = submit(&mut connection, KEYED).await.unwrap_err();
    assert_eq!(half_won.code, "40001", "{half_won}");
    assert_eq!(shop.count("idempotency").await, 1, "what was won is gone");
}
