//! What waits for a time.

use std::sync::Arc;
use std::time::Duration;

use domain::Micros;
use domain::lane::{DueMark, Lane, TimedEntry, Wait};
use store::{Batch, DueEntry, Head, KeptEntry, NewExecution, Place, WindowMap};

use crate::world::*;

#[tokio::test]
async fn a_retry_beyond_what_was_read_is_found_in_the_due_table() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    for batch in [submission(&lane, world.now, 2, 2)] {
        writer.commit(&world.windows, &batch).await.unwrap();
        apply(&mut lane, &batch);
    }
    let batch = end_two(&lane, world.now);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);

    let upto = DueMark {
        due: world.now.plus(Duration::from_secs(3_600)),
        seq: u64::MAX >> 1,
    };
    let range = (lane.due_read(), upto);
    let entries = writer
        .due_entries(&world.windows, lane.id(), range, 100)
        .await
        .unwrap();
    assert_eq!(entries, [batch.due[0].entry]);
    let after = (entries[0].mark, upto);
    let rest = writer
        .due_entries(&world.windows, lane.id(), after, 100)
        .await
        .unwrap();
    assert_eq!(rest, [], "the mark itself is not read again");
}

/// A batch that accepts one execution which is due beyond all windows.
fn far(lane: &Lane, at: Micros, due: Micros) -> (Batch, TimedEntry) {
    let mut draft = lane.draft(at);
    let seq = draft.schedule(CLASS, due);
    let entry = TimedEntry {
        mark: DueMark { due, seq },
        class: CLASS,
        home: due.hour(),
        budgets: domain::Budgets::default(),
        wait: Wait::Scheduled,
    };
    let head = Head {
        due: Some(due),
        ..Head::clone(&head(b"later"))
    };
    let (lane, place) = (lane.id(), Place::Kept);
    let execution = NewExecution {
        lane,
        seq,
        home: due.hour(),
        head: Arc::new(head),
        place,
    };
    let batch = Batch {
        rows: vec![draft.seal(1)],
        executions: vec![execution],
        due: vec![DueEntry { lane, entry, place }],
        ..Batch::default()
    };
    (batch, entry)
}

#[tokio::test]
async fn what_is_due_beyond_all_windows_is_kept_and_moves_in_when_they_are_made() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let id = lane.id();
    let due = world.now.plus(Duration::from_secs(40 * 24 * 3_600));
    let (batch, entry) = far(&lane, world.now, due);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let database = world.database.clone();
    let there = place(&lane, due.hour(), entry.mark.seq);
    let get = async |windows: &WindowMap| {
        let found = database.execution(windows, 1, there).await.unwrap();
        found.expect("it is there").head.due
    };
    assert_eq!(get(&world.windows).await, Some(due));

    world
        .election
        .make_windows(&world.term, 24, 41 * 24)
        .await
        .unwrap();
    let windows = world.database.windows().await.unwrap();
    let kept = writer.kept_due(id, windows.reach(), 10).await.unwrap();
    let mark = entry.mark;
    assert_eq!(kept, [KeptEntry { lane: id, mark }]);
    let mut draft = lane.draft(world.now);
    draft.keep_until(windows.reach());
    let batch = Batch {
        rows: vec![draft.seal(2)],
        kept,
        ..Batch::default()
    };
    writer.commit(&windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    assert_eq!(writer.kept_due(id, windows.reach(), 10).await.unwrap(), []);
    let upto = DueMark {
        due,
        seq: u64::MAX >> 1,
    };
    let range = (lane.due_read(), upto);
    let entries = writer.due_entries(&windows, id, range, 10).await.unwrap();
    assert_eq!(entries, [entry]);
    assert_eq!(get(&windows).await, Some(due));
    assert_eq!(writer.replay(id).await.unwrap(), lane);
}
