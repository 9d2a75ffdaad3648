//! From the chain and its snapshots back to memory.

use std::time::Duration;

use domain::ExecutionState;
use domain::lane::Lane;

use crate::world::*;

#[tokio::test]
async fn what_is_committed_is_replayed_as_it_was_in_memory() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let batch = submission(&lane, world.now, 5, 3);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);

    let batch = end_two(&lane, world.now.plus(Duration::from_secs(1)));
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);

    assert_eq!(
        writer.replay(lane.id()).await.unwrap(),
        lane,
        "replay = memory"
    );
    let seqs: Vec<u64> = batch.outcomes.iter().map(|outcome| outcome.seq).collect();
    let home = world.now.hour();
    let stored = world
        .database
        .execution(&world.windows, 1, place(&lane, home, seqs[0]))
        .await
        .unwrap();
    let stored = stored.expect("it is there");
    assert_eq!(stored.head.payload, "payload");
    assert_eq!(stored.head.labels["team"], "ops \"1\"");
    assert_eq!(stored.head.trace, Some([9; 25]));
    assert_eq!(stored.head.accepted, world.now);
    let [attempt] = &stored.attempts[..] else {
        panic!("one attempt")
    };
    assert_eq!(
        (attempt.state, attempt.fence),
        (ExecutionState::Succeeded, batch.outcomes[0].fence)
    );
    assert_eq!(attempt.output.as_deref(), Some(&b"done"[..]));
}

#[tokio::test]
async fn recovery_begins_at_the_newest_snapshot_and_comes_to_the_same_memory() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let mut commit = async |lane: &mut Lane, claim| {
        let batch = submission(lane, world.now, 40, claim);
        writer.commit(&world.windows, &batch).await.unwrap();
        apply(lane, &batch);
    };
    commit(&mut lane, 3).await;
    let at = (lane.link(), lane.to_snapshot());
    commit(&mut lane, 7).await;
    world
        .database
        .write_snapshot(lane.id(), at.0, &at.1)
        .await
        .unwrap();
    assert_eq!(writer.replay(lane.id()).await.unwrap(), lane);
    // What lies before the snapshot isn't read any more.
    let gone = format!(
        "delete from chain where lane = {} and n <= {}",
        lane.id(),
        at.0.n
    );
    world.execute(&gone).await;
    assert_eq!(writer.replay(lane.id()).await.unwrap(), lane);
}
