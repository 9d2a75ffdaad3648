//! Lists on a real PostgreSQL: every page of every list, over all windows and what is kept apart.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::testing::{FreshDatabase, fresh_database};
use domain::{ExecutionState, Hour, LaneId, ListMark, Micros, Priority, Stretch};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use store::{
    Database, Election, Error, ExecutionPlace, Lead, ListPart, ReadLists, Storage, TermHolder,
    WindowMap,
};
use uuid::Uuid;

const FAILED: i16 = ExecutionState::Failed as i16;
const DEAD_LETTERED: i16 = ExecutionState::DeadLettered as i16;

/// A database with windows of one hour, of which a statement of a list doesn't read all.
struct World {
    _fresh: FreshDatabase,
    database: Database,
    windows: WindowMap,
    connection: PgConnection,
    now: Micros,
}

impl World {
    async fn new() -> Self {
        let fresh = fresh_database().await;
        let database = Database::connect(fresh.url(), 2, Arc::new(|_, _, _| {}))
            .await
            .unwrap();
        let holder = TermHolder {
            incarnation: Uuid::new_v4(),
            label: "test".into(),
            lease: Duration::from_secs(60),
        };
        let mut election = Election::new(database.clone(), holder);
        let term = election.campaign().await.unwrap().unwrap();
        election.make_windows(&term, 1, 25).await.unwrap();
        let windows = database.windows().await.unwrap();
        let connection = PgConnection::connect(fresh.url()).await.unwrap();
        Self {
            _fresh: fresh,
            database,
            windows,
            connection,
            now: term.now(),
        }
    }

    async fn execute(&mut self, statement: String) {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut self.connection)
            .await
            .unwrap();
    }

    /// An execution whose home is some hours ahead of now; `table`: or where it is kept.
    async fn execution(&mut self, table: &str, row: &Row) {
        let Row {
            mark,
            home,
            tenant,
            queue,
        } = row;
        let (at, lane, seq) = (mark.at.0, mark.lane, mark.seq);
        self.execute(format!(
            "insert into {table} (win, lane, seq, tenant, queue, job_type, priority, at, timeout_us,
                 retry_policy, labels, payload, correlation_id)
             values ({home}, {lane}, {seq}, {tenant}, {queue}, 5, 2, {}, 1, 1,
                 '{{\"team\": \"night\"}}', '', 'order-{seq}')",
            time(at)
        ))
        .await;
    }

    async fn outcome(&mut self, table: &str, row: &Row, (fence, state): (u64, i16)) {
        let Row {
            mark,
            home,
            tenant,
            queue,
        } = row;
        let (at, lane, seq) = (mark.at.0, mark.lane, mark.seq);
        self.execute(format!(
            "insert into {table} (win, lane, seq, fence, tenant, queue, attempt, result, state, reason,
                 attempts_used, lost_used, worker, claimed_at, queued_us, dispatch_us, run_us,
                 report_us, at, trace_kept)
             values ({home}, {lane}, {seq}, {fence}, {tenant}, {queue}, 2, 2, {state}, 1, 1, 0, 'w',
                 {at}, 0, 0, 0, 0, {at}, false)",
            at = time(at)
        ))
        .await;
    }

    async fn due(&mut self, table: &str, row: &Row) {
        let Row {
            mark,
            home,
            tenant,
            queue,
        } = row;
        let (due, lane, seq) = (mark.at.0, mark.lane, mark.seq);
        let win = mark.at.hour().0;
        self.execute(format!(
            "insert into {table} (win, lane, due_at, seq, home, tenant, queue, priority, job_type,
                 attempts, lost, wait)
             values ({win}, {lane}, {}, {seq}, {home}, {tenant}, {queue}, 3, 5, 0, 0, 1)",
            time(due)
        ))
        .await;
    }
}

/// A row, and where it belongs in its list.
#[derive(Clone, Copy, Debug)]
struct Row {
    mark: ListMark,
    home: i32,
    tenant: i32,
    queue: i32,
}

fn time(micros: i64) -> String {
    format!("'1970-01-01T00:00:00Z'::timestamptz + {micros} * interval '1 microsecond'")
}

/// Rows in many windows, with times of which several share each, of three queues and two tenants.
fn rows(now: Micros, count: u64) -> Vec<Row> {
    let row = |number: u64| Row {
        mark: ListMark {
            at: Micros(now.0 + i64::try_from(number * 7 % 40).unwrap()),
            lane: LaneId(u16::try_from(number % 4).unwrap()),
            seq: number + 1,
        },
        home: now.hour().0 + i32::try_from(number % 20).unwrap(),
        tenant: 1 + i32::from(number.is_multiple_of(11)),
        queue: 1 + i32::try_from(number % 3).unwrap(),
    };
    (0..count).map(row).collect()
}

/// What the list of a tenant's queues must be.
fn expected(rows: &[Row], tenant: i32, queues: &[i32]) -> Vec<(ListMark, Hour)> {
    let of_list = |row: &&Row| row.tenant == tenant && queues.contains(&row.queue);
    let rows = rows.iter().filter(of_list);
    let sorted: BTreeMap<ListMark, Hour> = rows.map(|row| (row.mark, Hour(row.home))).collect();
    sorted.into_iter().rev().collect()
}

/// Reads a list of tenant 1 to its end.
async fn pages<F>(queues: &[i32], limit: usize, read: F) -> Vec<(ListMark, Hour)>
where
    F: AsyncFn(ListPart) -> Result<Stretch<Hour>, Error>,
{
    let mut all = Vec::new();
    let mut before = ListMark::BEGIN;
    loop {
        let part = ListPart {
            tenant: 1,
            queues: queues.to_vec(),
            before,
            after: ListMark::END,
            limit,
        };
        let page = read(part).await.unwrap();
        assert!(page.items.len() <= limit, "{}", page.items.len());
        all.extend(page.items);
        match page.end {
            Some(end) => before = end,
            None => return all,
        }
    }
}

#[tokio::test]
async fn executions_are_listed_page_by_page_in_the_order_of_their_acceptance() {
    let mut world = World::new().await;
    let rows = rows(world.now, 200);
    for (number, row) in rows.iter().enumerate() {
        let kept = number % 17 == 0;
        let table = if kept { "kept_execution" } else { "execution" };
        world.execution(table, row).await;
    }
    let (database, windows) = (&world.database, &world.windows);
    let read = async |part| database.list_accepted(windows, &part).await;
    for (queues, limit) in [(&[1, 2, 3][..], 7), (&[2], 500), (&[2, 9], 1), (&[9], 3)] {
        let listed = pages(queues, limit, read).await;
        assert_eq!(listed, expected(&rows, 1, queues), "{queues:?} by {limit}");
    }
}

#[tokio::test]
async fn old_executions_are_found_behind_windows_that_have_none() {
    let mut world = World::new().await;
    let mut old = rows(world.now, 3);
    for row in &mut old {
        // Accepted long ago for later: in the last window, behind everything in time.
        row.mark.at.0 -= 3_000_000_000;
        row.home = world.now.hour().0 + 24;
        world.execution("execution", row).await;
    }
    let new: Vec<Row> = rows(world.now, 40);
    for row in &new {
        let row = Row {
            mark: ListMark {
                seq: row.mark.seq + 100,
                ..row.mark
            },
            ..*row
        };
        world.execution("execution", &row).await;
        old.push(row);
    }
    let (database, windows) = (&world.database, &world.windows);
    let read = async |part| database.list_accepted(windows, &part).await;
    let listed = pages(&[1, 2, 3], 5, read).await;
    assert_eq!(listed, expected(&old, 1, &[1, 2, 3]));
}

#[tokio::test]
async fn failures_are_listed_by_when_they_failed_and_successes_are_not() {
    let mut world = World::new().await;
    let rows = rows(world.now, 160);
    let mut failed = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let state = [6, FAILED, DEAD_LETTERED, 5][number % 4];
        let kept = number % 17 == 0;
        let table = if kept { "kept_outcome" } else { "outcome" };
        world.outcome(table, row, (9, state)).await;
        if [FAILED, DEAD_LETTERED].contains(&state) {
            failed.push((*row, state));
        }
    }
    let (database, windows) = (&world.database, &world.windows);
    for (states, limit) in [(&[FAILED, DEAD_LETTERED][..], 7), (&[DEAD_LETTERED], 100)] {
        let read = async |part| database.list_ended(windows, &part, states).await;
        let listed = pages(&[1, 3], limit, read).await;
        let rows = failed.iter().filter(|(_, state)| states.contains(state));
        let rows: Vec<Row> = rows.map(|(row, _)| *row).collect();
        assert_eq!(listed, expected(&rows, 1, &[1, 3]), "{states:?} by {limit}");
    }
    let read = async |part| database.list_ended(windows, &part, &[6]).await;
    assert_eq!(pages(&[1, 3], 7, read).await, []);
}

#[tokio::test]
async fn due_entries_are_listed_by_when_they_are_due_and_none_before_the_place_asked_for() {
    let mut world = World::new().await;
    let mut rows = rows(world.now, 160);
    for (number, row) in rows.iter_mut().enumerate() {
        let hours = i64::try_from(number % 23).unwrap();
        row.mark.at.0 += hours * 3_600_000_000;
        let kept = number % 17 == 0;
        world.due(if kept { "kept_due" } else { "due" }, row).await;
    }
    let after = world.now.0 + 4 * 3_600_000_000;
    rows.retain(|row| row.mark.at.0 >= after);
    let (database, windows) = (&world.database, &world.windows);
    let read = async |part: ListPart| {
        let at = Micros(after);
        let after = ListMark { at, ..part.after };
        database
            .list_due(windows, &ListPart { after, ..part })
            .await
    };
    for limit in [7, 200] {
        let listed = pages(&[1, 2], limit, read).await;
        assert_eq!(listed, expected(&rows, 1, &[1, 2]), "by {limit}");
    }
}

#[tokio::test]
async fn what_was_carried_over_is_listed_once() {
    let mut world = World::new().await;
    let rows = rows(world.now, 30);
    for (number, row) in rows.iter().enumerate() {
        world.execution("execution", row).await;
        if number % 2 == 0 {
            world.execution("kept_execution", row).await;
        }
    }
    let (database, windows) = (&world.database, &world.windows);
    let read = async |part| database.list_accepted(windows, &part).await;
    for limit in [3, 100] {
        let listed = pages(&[1, 2, 3], limit, read).await;
        assert_eq!(listed, expected(&rows, 1, &[1, 2, 3]));
    }
}

#[tokio::test]
async fn heads_and_last_outcomes_are_found_wherever_they_are() {
    let mut world = World::new().await;
    let rows = rows(world.now, 4).into_iter();
    let rows: Vec<Row> = rows.map(|row| Row { tenant: 1, ..row }).collect();
    let [in_window, kept, carried_over, absent] = rows[..] else {
        panic!("four rows")
    };
    world.execution("execution", &in_window).await;
    world.execution("kept_execution", &kept).await;
    world.execution("execution", &carried_over).await;
    world.execution("kept_execution", &carried_over).await;
    world.outcome("outcome", &in_window, (7, 5)).await;
    world.outcome("outcome", &in_window, (9, FAILED)).await;
    world.outcome("outcome", &carried_over, (4, 5)).await;
    world.outcome("kept_outcome", &carried_over, (6, 6)).await;

    let places: Vec<ExecutionPlace> = rows.iter().map(place).collect();
    let (database, windows) = (&world.database, &world.windows);
    let heads = database.listed_heads(windows, 1, &places).await.unwrap();
    let found: Vec<u64> = heads.keys().map(|(_, seq)| *seq).collect();
    assert_eq!(
        found,
        [in_window, kept, carried_over].map(|row| row.mark.seq)
    );
    let head = &heads[&(in_window.mark.lane, in_window.mark.seq)];
    assert_eq!(head.accepted, in_window.mark.at);
    assert_eq!(
        (head.tenant, head.queue),
        (in_window.tenant, in_window.queue)
    );
    assert_eq!((head.job_type, head.priority), (5, Priority::High));
    assert_eq!(
        (head.correlation_id.as_deref(), head.due),
        (Some("order-1"), None)
    );
    assert_eq!(head.labels["team"], "night");

    let last = database.last_outcomes(windows, 1, &places).await.unwrap();
    let last: Vec<_> = last
        .iter()
        .map(|((_, seq), last)| (*seq, last.fence, last.state as i16, last.attempt))
        .collect();
    let expected = [(in_window, 9, FAILED), (carried_over, 6, 6)];
    assert_eq!(
        last,
        expected.map(|(row, fence, state)| (row.mark.seq, fence, state, 2))
    );
    let (theirs, outcomes) = (
        database.listed_heads(windows, 2, &places).await.unwrap(),
        database.last_outcomes(windows, 2, &places).await.unwrap(),
    );
    assert!(theirs.is_empty() && outcomes.is_empty(), "another tenant's");
    let elsewhere = ExecutionPlace {
        home: Hour(absent.home + 1),
        ..place(&in_window)
    };
    let heads = database
        .listed_heads(windows, 1, &[elsewhere])
        .await
        .unwrap();
    assert!(heads.is_empty(), "its home is another: {heads:?}");
}

fn place(row: &Row) -> ExecutionPlace {
    ExecutionPlace {
        lane: row.mark.lane,
        seq: row.mark.seq,
        home: Hour(row.home),
    }
}
