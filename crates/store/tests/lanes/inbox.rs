//! The inbox.

use domain::LaneId;
use domain::lane::InboxMark;
use sqlx::Connection;
use store::{NewExecution, Place, Posted, Poster};

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
