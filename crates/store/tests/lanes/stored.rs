//! What waits in its table alone.

use std::sync::Arc;
use std::time::Duration;

use domain::lane::{Class, Lane, Span, StoredPage};
use domain::{HourRange, Micros};
use store::{Batch, Departure, Head, NewExecution, Place};
use uuid::Uuid;

use crate::world::*;

const OTHER: Class = Class {
    job_type: 2,
    ..CLASS
};

/// A batch that accepts two of each class, and one of the first for later: in their table alone where the line
/// has a run in memory.
fn interleaved(lane: &Lane, at: Micros) -> Batch {
    let mut draft = lane.draft(at);
    draft.store_beyond(1);
    let mut executions = Vec::new();
    for class in [CLASS, OTHER] {
        let first = draft.accept(class, 2);
        executions.extend([first, first + 1].map(|seq| execution(lane, seq, class, (at, None))));
    }
    let due = at.plus(Duration::from_secs(60));
    let later = draft.schedule(CLASS, due);
    executions.push(execution(lane, later, CLASS, (due, Some(due))));
    Batch {
        executions,
        rows: vec![draft.seal(Uuid::new_v4().as_u128())],
        ..Batch::default()
    }
}

fn execution(
    lane: &Lane,
    seq: u64,
    class: Class,
    (home, due): (Micros, Option<Micros>),
) -> NewExecution {
    let head = Head {
        job_type: class.job_type,
        due,
        ..Head::clone(&head(b"payload"))
    };
    NewExecution {
        lane: lane.id(),
        seq,
        home: home.hour(),
        head: Arc::new(head),
        place: Place::Window,
    }
}

/// A lane of which nine of each class wait in their table, and what was accepted when.
async fn lane_with_stored(world: &mut World) -> (Lane, store::Writer) {
    let (mut lane, mut writer, _) = world.owner().await;
    for step in 0..10 {
        let at = world.now.plus(Duration::from_millis(step));
        let batch = interleaved(&lane, at);
        writer.commit(&world.windows, &batch).await.unwrap();
        apply(&mut lane, &batch);
    }
    assert_eq!(lane.waiting().stored_count(), 36);
    (lane, writer)
}

/// All pages of what waits in the table of a line, each of so many rows.
async fn pages(world: &World, lane: &Lane, class: Class, rows: usize) -> StoredPage {
    let span = lane.waiting().next_stored(class).unwrap().span();
    let (mut upto, mut found) = (span.from - 1, Vec::new());
    while upto < span.to {
        let rest = Span {
            from: upto + 1,
            ..span
        };
        let read = world
            .database
            .stored(&world.windows, lane.id(), (class, rest), rows);
        let page = read.await.unwrap();
        assert!(page.upto > upto, "it goes on: {page:?}");
        upto = page.upto;
        found.extend(page.found);
    }
    let from = span.from;
    StoredPage { from, upto, found }
}

#[tokio::test]
async fn what_waits_in_its_table_is_read_by_class_whatever_the_size_of_a_page() {
    let mut world = World::new().await;
    let (lane, _) = lane_with_stored(&mut world).await;
    for class in [CLASS, OTHER] {
        let all = pages(&world, &lane, class, 1_000).await;
        assert_eq!(all.found.len(), 18, "without what is for later");
        let times = all.found.iter().map(|(_, at)| *at);
        assert!(times.clone().is_sorted() && times.max() > Some(world.now));
        for rows in [1, 3, 7, 45] {
            assert_eq!(pages(&world, &lane, class, rows).await, all, "{rows}");
        }
    }
}

#[tokio::test]
async fn what_is_recalled_waits_in_memory_for_the_next_owner_too() {
    let mut world = World::new().await;
    let (mut lane, mut writer) = lane_with_stored(&mut world).await;
    for class in [CLASS, OTHER] {
        let page = pages(&world, &lane, class, 1_000).await;
        let mut draft = lane.draft(world.now.plus(Duration::from_secs(1)));
        draft.recall(class, &page).unwrap();
        let batch = Batch {
            rows: vec![draft.seal(Uuid::new_v4().as_u128())],
            ..Batch::default()
        };
        writer.commit(&world.windows, &batch).await.unwrap();
        apply(&mut lane, &batch);
        let runs: Vec<_> = lane.waiting().line(class).copied().collect();
        assert_eq!(runs.len(), 10, "as they were accepted");
        assert!(runs.iter().all(|run| run.count == 2));
    }
    assert_eq!(lane.waiting().stored_count(), 0);
    assert_eq!(writer.replay(lane.id()).await.unwrap(), lane);
}

#[tokio::test]
async fn what_was_carried_over_is_read_once() {
    let mut world = World::new().await;
    let (lane, _) = lane_with_stored(&mut world).await;
    let before = pages(&world, &lane, CLASS, 1_000).await;
    let seqs: Vec<u64> = before.found.iter().map(|(seq, _)| *seq).collect();
    let hour = world.now.hour();
    let window = HourRange {
        from: domain::Hour(hour.0 - 1),
        to: domain::Hour(hour.0 + 2),
    };
    let departure = Departure {
        lane: lane.id(),
        window,
        row: lane.link(),
        due_read: lane.due_read(),
        open: seqs,
    };
    let carried = world.database.carry_over(&world.windows, departure, 1_000);
    carried.await.unwrap();
    assert_eq!(pages(&world, &lane, CLASS, 1_000).await, before);
    assert_eq!(pages(&world, &lane, CLASS, 7).await, before);
    world.execute("delete from execution").await;
    assert_eq!(pages(&world, &lane, CLASS, 7).await, before);
}
