//! The inbox.

use std::sync::Arc;
use std::time::Duration;

use domain::lane::{DatabaseIdentity, Draft, InboxMark, Lane, Received};
use domain::{AttemptResult, LaneId, Micros, RetryPolicy};
use sqlx::Connection;
use store::{Batch, Error, NewExecution, Place, Posted, Poster, Writer};
use uuid::Uuid;

use crate::world::*;

/// Executions on their way to a lane through its inbox.
async fn post(world: &World, poster: &mut Poster, lane: LaneId, count: usize) -> Vec<u64> {
    let seqs = poster.numbers(count).await.unwrap();
    let posted = seqs.iter().map(|seq| Posted {
        execution: NewExecution {
            lane,
            seq: *seq,
            home: world.now.hour(),
            head: head(b"posted"),
            place: Place::Window,
        },
        key: None,
    });
    let posted: Vec<Posted> = posted.collect();
    poster
        .post(&world.windows, &posted, world.now)
        .await
        .unwrap();
    seqs
}

#[tokio::test]
async fn what_was_planned_minutes_ago_is_put_into_no_inbox() {
    let mut world = World::new().await;
    let (lane, ..) = world.owner().await;
    let mut poster = Poster::new(world.database.clone());
    let seq = poster.numbers(1).await.unwrap()[0];
    for planned in [
        world.now.plus(Duration::from_secs(90)),
        Micros(world.now.0 - 90_000_000),
    ] {
        let posted = Posted {
            execution: NewExecution {
                lane: lane.id(),
                seq,
                home: planned.hour(),
                head: head(b"posted"),
                place: Place::Window,
            },
            key: None,
        };
        let windows = &world.windows;
        let refused = poster.post(windows, &[posted], planned).await.unwrap_err();
        assert!(matches!(refused, Error::Untimely { .. }), "{refused}");
        assert!(refused.is_refusal());
    }
    for table in ["inbox", "execution"] {
        assert_eq!(world.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn an_inbox_is_read_once_whatever_the_order_of_commits_and_page_by_page() {
    let mut world = World::new().await;
    let (lane, mut writer, _) = world.owner().await;
    let mut poster = Poster::new(world.database.clone());
    // One that begins first and commits last.
    let mut late = sqlx::PgConnection::connect(world.fresh.url())
        .await
        .unwrap();
    let hour = world.now.hour();
    let insert = format!(
        "begin; insert into inbox (win, lane, kind, seq, tenant, queue, priority, job_type, home)
         values ({hour}, {}, 1, 9000000000000, 1, 1, 3, 1, {hour})",
        lane.id()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
        .execute(&mut late)
        .await
        .unwrap();
    let posted = post(&world, &mut poster, lane.id(), 5).await;

    let mut mark = InboxMark::default();
    let mut read = async |mark: &mut InboxMark| {
        let lanes = [(lane.id(), mark.clone())];
        let reads = writer
            .read_inbox(&world.windows, &lanes, (world.now, 2))
            .await
            .unwrap();
        reads
            .into_iter()
            .flat_map(|read| {
                *mark = read.mark;
                read.entries.into_iter().map(|entry| entry.seq)
            })
            .collect::<Vec<u64>>()
    };
    let mut seen = Vec::new();
    seen.extend(read(&mut mark).await);
    assert!(mark.page.is_some(), "two of five: there is more");
    sqlx::raw_sql("commit").execute(&mut late).await.unwrap();
    for _ in 0..4 {
        seen.extend(read(&mut mark).await);
    }
    assert_eq!(mark.page, None);
    let mut expected = posted;
    expected.push(9_000_000_000_000);
    assert_eq!(seen, expected, "each once, the late one last");
}

#[tokio::test]
async fn in_a_database_that_was_moved_an_inbox_is_read_anew_and_nothing_comes_twice() {
    let mut world = World::new().await;
    let (mut lane, mut writer, lease) = world.owner().await;
    let mut poster = Poster::new(world.database.clone());
    let before = post(&world, &mut poster, lane.id(), 3).await;
    let mut batch = take_in(&mut writer, &world, &lane).await;
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    // One is over, one runs, one waits.
    let mut draft = lane.draft(world.now);
    draft.claim(CLASS, 1, &Arc::from("worker-1"));
    draft.claim(CLASS, 1, &Arc::from("worker-1"));
    batch = sealed(draft);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    batch = end_one(&lane, before[0], world.now);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);

    let after = post(&world, &mut poster, lane.id(), 2).await;
    world
        .execute("update inbox set xid = (xid::text::int8 + 1000000000)::text::xid8")
        .await;
    let elsewhere = DatabaseIdentity {
        system: IDENTITY.system + 1,
        ..IDENTITY
    };
    let (mut lane, mut writer) = world.successor_in(&lease, elsewhere).await;
    batch = take_in(&mut writer, &world, &lane).await;
    let received = &batch.rows[0].delta.received;
    let seqs: Vec<u64> = received.iter().map(|received| received.seq).collect();
    let known = lane.received();
    let new: Vec<u64> = seqs
        .into_iter()
        .filter(|seq| !known.contains(seq))
        .collect();
    assert_eq!(
        new, after,
        "what was read before is over, or memory knows it"
    );
    batch.rows[0]
        .delta
        .received
        .retain(|received| after.contains(&received.seq));
    batch.rows[0].totals.submitted = lane.totals().submitted + 2;
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let lanes = [(lane.id(), lane.inbox_read().clone())];
    let again = writer
        .read_inbox(&world.windows, &lanes, (world.now, 10))
        .await
        .unwrap();
    assert_eq!(again, [], "and the old numbers mean nothing any more");
}

/// A batch that takes in what is in a lane's inbox.
async fn take_in(writer: &mut Writer, world: &World, lane: &Lane) -> Batch {
    let lanes = [(lane.id(), lane.inbox_read().clone())];
    let reads = writer
        .read_inbox(&world.windows, &lanes, (world.now, 10))
        .await
        .unwrap();
    let mut draft = lane.draft(world.now);
    for read in reads {
        for entry in &read.entries {
            let (seq, class, home) = (entry.seq, entry.class, entry.home);
            draft.receive(Received { seq, class, home });
        }
        draft.read_inbox(read.mark);
    }
    sealed(draft)
}

fn end_one(lane: &Lane, seq: u64, at: Micros) -> Batch {
    let running = &lane.running()[&seq];
    let result = AttemptResult::Success;
    let decision = domain::decide(result.into(), running.budgets, &RetryPolicy::default(), 0.5);
    let mut draft = lane.draft(at);
    draft.end(seq, running.fence, &decision).unwrap();
    let outcome = outcome(lane.id(), seq, running, result);
    Batch {
        outcomes: vec![outcome],
        ..sealed(draft)
    }
}

fn sealed(draft: Draft<'_>) -> Batch {
    Batch {
        rows: vec![draft.seal(Uuid::new_v4().as_u128())],
        ..Batch::default()
    }
}
