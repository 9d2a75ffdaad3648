//! What running executions save: behind the chain's fence, read again by what the chain says.

use domain::Progress;
use domain::lane::{CheckpointMark, Lane};
use store::{Batch, Checkpoint, Error, Place};
use uuid::Uuid;

use crate::world::*;

/// A batch by which the first of a lane's running executions saves so many checkpoints. Gives which was the last.
pub(crate) fn saves(
    lane: &Lane,
    world: &World,
    count: u64,
    place: Place,
) -> (Batch, u64, CheckpointMark) {
    let mut draft = lane.draft(world.now);
    let (seq, running) = lane.running().iter().min_by_key(|(seq, _)| **seq).unwrap();
    let mut batch = Batch::default();
    let first = lane.saved(*seq).map_or(1, |mark| mark.number + 1);
    for number in first..first + count {
        let fence = running.fence;
        let mark = CheckpointMark { fence, number };
        assert_eq!(draft.save(*seq, mark), Ok(true));
        batch.checkpoints.push(Checkpoint {
            lane: lane.id(),
            seq: *seq,
            home: running.home,
            tenant: 1,
            mark,
            state: format!("state {number}").into(),
            progress: (number > 1).then(|| Progress::new(number, 9, "counting")),
            place,
        });
    }
    batch.rows.push(draft.seal(Uuid::new_v4().as_u128()));
    let last = batch.checkpoints.last().unwrap().mark;
    (batch, *seq, last)
}

#[tokio::test]
async fn a_successor_knows_what_was_saved_last_and_reads_it() {
    let mut world = World::new().await;
    let (mut lane, mut writer, lease) = world.owner().await;
    let batch = submission(&lane, world.now, 2, 2);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let (batch, seq, last) = saves(&lane, &world, 3, Place::Window);
    writer.commit(&world.windows, &batch).await.unwrap();
    let (late, _, _) = saves(&lane, &world, 1, Place::Window);
    apply(&mut lane, &batch);
    assert_eq!(writer.replay(lane.id()).await.unwrap(), lane);

    let (new, mut new_writer) = world.successor(&lease).await;
    assert_eq!(new.saved(seq), Some(last));
    let refused = writer.commit(&world.windows, &late).await;
    assert!(matches!(refused, Err(Error::Deposed { .. })), "{refused:?}");
    let (database, windows, home) = (&world.database, &world.windows, world.now.hour());
    let other = (
        seq + 1,
        CheckpointMark {
            fence: 1,
            number: 1,
        },
    );
    let marks = [(seq, last), other];
    let states = database.states(windows, lane.id(), home, (&marks, 1)).await;
    assert_eq!(states.unwrap(), [(seq, "state 3".into())]);

    let places = [place(&lane, home, seq)];
    let checkpoint = database.last_checkpoint(windows, 1, places[0]).await;
    let checkpoint = checkpoint.unwrap().unwrap();
    assert_eq!((checkpoint.mark, checkpoint.size), (last, 7));
    assert_eq!(checkpoint.progress, Some(Progress::new(3, 9, "counting")));
    let batch = end_two(&new, world.now);
    new_writer.commit(windows, &batch).await.unwrap();
    let ends = new_writer.last_ends(windows, &places).await.unwrap();
    assert_eq!(
        ends[&(lane.id(), seq)].saved,
        Some(last),
        "for who has it run again"
    );
}

#[tokio::test]
async fn states_come_by_pages_of_so_many_bytes() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let batch = submission(&lane, world.now, 1, 1);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let (batch, seq, last) = saves(&lane, &world, 3, Place::Window);
    writer.commit(&world.windows, &batch).await.unwrap();
    let marks: Vec<_> = (1..=3)
        .map(|number| (seq, CheckpointMark { number, ..last }))
        .collect();
    let (database, home) = (&world.database, world.now.hour());
    for (bytes, count) in [(0, 0), (1, 1), (7, 1), (8, 2), (1_000, 3)] {
        let states = database.states(&world.windows, lane.id(), home, (&marks, bytes));
        assert_eq!(states.await.unwrap().len(), count, "{bytes} bytes");
    }
}

#[tokio::test]
async fn what_handlers_say_of_an_attempt_is_in_its_row_and_other_rows_of_the_batch_have_nothing() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let batch = submission(&lane, world.now, 2, 2);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let mut batch = end_two(&lane, world.now);
    let says = &mut batch.outcomes[0];
    says.items = domain::Items::new(7, 1, 0);
    says.progress = Some(Progress::new(7, 8, ""));
    let (seq, items, progress) = (says.seq, says.items, says.progress.clone());
    writer.commit(&world.windows, &batch).await.unwrap();
    let home = world.now.hour();
    for (seq, items, progress) in [
        (seq, items, progress),
        (seq + 1, domain::Items::default(), None),
    ] {
        let place = place(&lane, home, seq);
        let execution = world.database.execution(&world.windows, 1, place).await;
        let execution = execution.unwrap().unwrap();
        let attempt = &execution.attempts[0];
        assert_eq!((attempt.items, &attempt.progress), (items, &progress));
    }
}
