//! Who proves himself otherwise than those that live is not let in.

use std::time::Duration;

use store::{Claimant, Error};

use crate::world::*;

/// Long enough for a test's own statements, short enough to be waited for.
const LEASE: Duration = Duration::from_secs(1);

fn with_proof(of: &Claimant, proof: u8) -> Claimant {
    Claimant {
        lease: LEASE,
        proof: [proof; 32],
        ..of.clone()
    }
}

#[tokio::test]
async fn who_shows_another_token_than_those_that_live_is_told_so_and_not_let_in() {
    let world = World::new().await;
    let (first, mut leases) = scheduler(&world.database, "first");
    let (second, mut others) = scheduler(&world.database, "second");
    let (first, right) = (with_proof(&first, 1), with_proof(&second, 1));
    leases.admit(&first, false).await.unwrap();
    others.admit(&right, false).await.unwrap();
    leases.renew(&first).await.unwrap();
    let refused = others
        .admit(&with_proof(&second, 2), true)
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::OtherToken { .. }), "{refused}");
    let told = refused.to_string();
    assert!(
        told.contains("SERVICE_TOKEN") && told.contains("first"),
        "{told}"
    );
    others.admit(&right, false).await.unwrap();
}

#[tokio::test]
async fn of_two_newcomers_with_different_tokens_one_is_let_in() {
    let world = World::new().await;
    let (first, mut leases) = scheduler(&world.database, "first");
    let (second, mut others) = scheduler(&world.database, "second");
    let (first, second) = (with_proof(&first, 1), with_proof(&second, 2));
    let (one, other) = tokio::join!(leases.admit(&first, true), others.admit(&second, true));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test]
async fn a_token_is_changed_once_nobody_lives_who_shows_the_old_one() {
    let mut world = World::new().await;
    world.leases.leave(&world.claimant, &[]).await.unwrap();
    let (first, mut leases) = scheduler(&world.database, "first");
    let (old, new) = (with_proof(&first, 1), with_proof(&first, 2));
    leases.admit(&old, false).await.unwrap();
    let deadline = tokio::time::Instant::now() + 10 * LEASE;
    while let Err(error) = leases.admit(&new, true).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        let modest = leases.admit(&new, false).await.unwrap_err();
        assert!(matches!(modest, Error::OtherToken { .. }), "{modest}");
        tokio::time::sleep(LEASE / 20).await;
    }
    let refused = leases.admit(&old, true).await.unwrap_err();
    assert!(matches!(refused, Error::OtherToken { .. }), "{refused}");
}
