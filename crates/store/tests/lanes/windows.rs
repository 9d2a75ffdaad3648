//! The leader and its windows.

use std::time::Duration;

use domain::Hour;
use store::{Election, Error, TermHolder};
use uuid::Uuid;

use crate::world::*;

#[tokio::test]
async fn a_deposed_leader_makes_no_windows() {
    let mut world = World::new().await;
    world.election.resign(&world.term).await.unwrap();
    let holder = TermHolder {
        incarnation: Uuid::new_v4(),
        label: "other".into(),
        lease: Duration::from_secs(60),
    };
    let mut others = Election::new(world.database.clone(), holder);
    let term = others.campaign().await.unwrap().expect("the lead is free");
    assert!(term.epoch() > world.term.epoch());
    let refused = world.election.make_windows(&world.term, 24, 500).await;
    assert!(
        matches!(refused, Err(Error::TermOver { .. })),
        "{refused:?}"
    );
    assert_eq!(world.database.windows().await.unwrap(), world.windows);
    assert!(world.election.renew(&world.term).await.is_err());
}

#[tokio::test]
async fn windows_reach_three_ahead_and_may_change_their_width() {
    let mut world = World::new().await;
    let now = world.now.hour();
    let day = now.0.div_euclid(24) * 24;
    assert!(world.windows.covers(now));
    assert!(
        world.windows.covers(Hour(day + 4 * 24 - 1)),
        "this one and three ahead"
    );
    assert!(!world.windows.covers(Hour(day + 4 * 24)));
    let made = world
        .election
        .make_windows(&world.term, 6, 24 * 6)
        .await
        .unwrap();
    assert!(made > 0);
    let windows = world.database.windows().await.unwrap();
    assert!(windows.covers(Hour(now.0 + 24 * 6 - 1)));
}
