//! Two owners, lost answers, leases.

use std::time::Duration;

use domain::lane::Link;
use store::{Claimant, Error, Settled};

use crate::world::*;

#[tokio::test]
async fn a_deposed_owner_writes_nothing_and_is_told() {
    let mut world = World::new().await;
    let (old, mut old_writer, lease) = world.owner().await;
    let (mut new, mut new_writer) = world.successor(&lease).await;

    let stale = submission(&old, world.now, 1, 1);
    let refused = old_writer.commit(&world.windows, &stale).await;
    assert!(matches!(refused, Err(Error::Deposed { .. })), "{refused:?}");
    let seq = stale.executions[0].seq;
    let home = world.now.hour();
    let left = world
        .database
        .execution(&world.windows, 1, place(&old, home, seq))
        .await
        .unwrap();
    assert!(left.is_none(), "nothing of the refused batch is there");

    let batch = submission(&new, world.now, 1, 1);
    new_writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut new, &batch);
    assert_eq!(new_writer.replay(new.id()).await.unwrap(), new);
}

#[tokio::test]
async fn a_row_goes_in_only_behind_the_row_that_its_writer_knows() {
    let mut world = World::new().await;
    let (lane, mut writer, _) = world.owner().await;
    let before = lane.link();
    let nowhere = before.next(before.batch);
    let another = Link {
        batch: before.batch ^ 1,
        ..before
    };
    for previous in [nowhere, another] {
        let mut batch = submission(&lane, world.now, 1, 0);
        let row = &mut batch.rows[0];
        (row.previous, row.link) = (previous, previous.next(row.link.batch));
        let refused = writer.commit(&world.windows, &batch).await;
        assert!(matches!(refused, Err(Error::Deposed { .. })), "{refused:?}");
    }
    assert_eq!(writer.replay(lane.id()).await.unwrap(), lane);
}

#[tokio::test]
async fn a_batch_over_several_lanes_goes_in_whole_or_not_at_all() {
    let mut world = World::new().await;
    let (deposed, _, lease) = world.owner().await;
    let (healthy, mut writer, _) = world.owner().await;
    let (_, _) = world.successor(&lease).await;

    let mut both = submission(&deposed, world.now, 1, 0);
    let other = submission(&healthy, world.now, 1, 0);
    both.rows.extend(other.rows);
    both.rows.sort_by_key(|row| row.lane);
    both.executions.extend(other.executions);
    let refused = writer.commit(&world.windows, &both).await;
    assert!(matches!(refused, Err(Error::Deposed { .. })), "{refused:?}");
    assert_eq!(
        writer.replay(healthy.id()).await.unwrap(),
        healthy,
        "the healthy lane is as it was"
    );
}

#[tokio::test]
async fn a_take_over_needs_a_lease_that_holds() {
    let mut world = World::new().await;
    let (_, mut writer, lease) = world.owner().await;
    world
        .leases
        .release(&world.claimant, &[lease.lane])
        .await
        .unwrap();
    let refused = writer.take_over(&lease, IDENTITY, world.now).await;
    assert!(
        matches!(refused, Err(Error::LeaseOver { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_take_over_jumps_beyond_every_fence_and_number_that_may_have_been_lost() {
    let mut world = World::new().await;
    let (old, _, lease) = world.owner().await;
    let before = submission(&old, world.now, 1, 1);
    let (new, _) = world.successor(&lease).await;
    let after = submission(&new, world.now, 1, 1);
    assert!(after.rows[0].link.n >= before.rows[0].link.n + (1 << 20));
    assert!(after.executions[0].seq >= before.executions[0].seq + (1 << 24));
}

#[tokio::test]
async fn leases_go_to_one_scheduler_each_and_run_out() {
    let mut world = World::new().await;
    let (other, mut others) = scheduler(&world.database, "scheduler-2");
    let mine = world.leases.take(&world.claimant, 3).await.unwrap();
    let theirs = others.take(&other, 3).await.unwrap();
    assert_eq!((mine.len(), theirs.len()), (3, 1), "4 lanes, each once");
    let short = Claimant {
        lease: Duration::ZERO,
        ..other.clone()
    };
    others.renew(&short).await.unwrap();
    let left = others.renew(&short).await.unwrap().leases;
    assert_eq!(left, [], "what has run out is not renewed");
    let taken = world.leases.take(&world.claimant, 4).await.unwrap();
    assert_eq!(taken.len(), 1, "but taken");
    assert!(taken[0].epoch > theirs[0].epoch);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_settled_by_a_row_in_its_place() {
    let mut world = World::new().await;
    let (lane, mut writer, _) = world.owner().await;
    let blank = lane.draft(world.now).seal(77);
    let batch = submission(&lane, world.now, 1, 0);
    writer.commit(&world.windows, &batch).await.unwrap();
    let there = writer.settle(&world.windows, &blank).await.unwrap();
    assert_eq!(there, Settled::There(batch.rows[0].link.batch));

    let (mut lane, mut writer, _) = world.owner().await;
    let blank = lane.draft(world.now).seal(77);
    let never = writer.settle(&world.windows, &blank).await.unwrap();
    assert_eq!(never, Settled::Never);
    let late = submission(&lane, world.now, 1, 0);
    let refused = writer.commit(&world.windows, &late).await;
    assert!(matches!(refused, Err(Error::Deposed { .. })), "{refused:?}");
    lane.apply(&blank).unwrap();
    assert_eq!(writer.replay(lane.id()).await.unwrap(), lane);
}

#[tokio::test]
async fn who_leaves_is_gone_and_so_are_its_leases_of_the_lanes_it_gives_up() {
    let mut world = World::new().await;
    let all = usize::from(LANES);
    let taken = world.leases.take(&world.claimant, all).await.unwrap();
    let (kept, given_up) = taken.split_first().unwrap();
    let given_up: Vec<_> = given_up.iter().map(|lease| lease.lane).collect();
    world
        .leases
        .leave(&world.claimant, &given_up)
        .await
        .unwrap();
    let (other, mut leases) = scheduler(&world.database, "scheduler-2");
    let membership = leases.membership(Duration::from_secs(60)).await.unwrap();
    assert_eq!(membership.schedulers, []);
    let lanes = leases.take(&other, all).await.unwrap();
    let mut lanes: Vec<_> = lanes.iter().map(|lease| lease.lane).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, given_up, "{} is still held", kept.lane);
}
