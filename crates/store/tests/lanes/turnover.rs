//! How windows go. Their time is what the leader's term says it is.

use std::time::{Duration, Instant};

use domain::lane::{Lane, Link};
use domain::{Hour, HourRange, Micros};
use sqlx::{Connection, PgConnection};
use store::{
    Batch, CarriedOver, Departure, Housekeeper, LetGo, NewExecution, Place, Retention, Table, Term,
    WindowMap, WindowState, Writer,
};
use uuid::Uuid;

use crate::checkpoints::saves;
use crate::world::*;

const RETENTION: Retention = Retention {
    history: 24,
    slack: 1,
};
const DAY: Duration = Duration::from_secs(86_400);
/// Nobody uses what is out of use in these tests.
const AT_ONCE: Duration = Duration::ZERO;

/// The window of a table that holds the hour in which the world began.
fn first_window(world: &World, table: Table) -> HourRange {
    let from = world.now.hour().0.div_euclid(24) * 24;
    assert!(world.windows.covers(Hour(from)) && table != Table::Idempotency);
    HourRange {
        from: Hour(from),
        to: Hour(from + 24),
    }
}

impl World {
    /// The leader as it will be after some days.
    fn term_after(&self, days: u32) -> Term {
        let incarnation = self.election_incarnation;
        Term::new(self.term.epoch(), incarnation, self.now.plus(DAY * days))
    }

    /// A step of the leader's after some days.
    async fn turn(&mut self, days: u32) -> WindowMap {
        let term = self.term_after(days);
        let ripe: Vec<_> = self.windows.ripe(term.now(), RETENTION).collect();
        self.election.turn_windows(&term, &ripe).await.unwrap();
        self.windows = self.database.windows().await.unwrap();
        self.windows.clone()
    }

    /// The leader steps until a window is sealed: what other tests have open on this server counts too.
    async fn seal(&mut self, days: u32, what: (Table, HourRange)) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.turn(days).await.sealed().any(|sealed| sealed == what) {
            assert!(Instant::now() < deadline, "{what:?} isn't sealed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lanes have said that they need nothing of a window.
    async fn let_go(&self, lanes: std::ops::Range<u16>, (table, window): (Table, HourRange)) {
        let sql = format!(
            "insert into public.let_go (table_name, from_hour, lane)
             select '{}', {}, lane from generate_series({}, {}) lane on conflict do nothing;",
            table.name(),
            window.from.0,
            lanes.start,
            lanes.end - 1
        );
        self.execute(&sql).await;
    }

    /// Carries over what a lane needs of a window.
    async fn carry(&self, lane: &Lane, window: HourRange) -> CarriedOver {
        let departure = departure(lane, window);
        let carried = self.database.carry_over(&self.windows, departure, 10);
        carried.await.unwrap()
    }

    /// How many executions and outcomes are kept apart once some days have gone by.
    async fn kept_after(&mut self, days: u32) -> (i64, i64) {
        let term = self.term_after(days);
        self.election.clear_kept(&term, RETENTION).await.unwrap();
        let executions = self.count("kept_execution").await;
        (executions, self.count("kept_outcome").await)
    }
}

/// The outcomes of a lane's two running executions: one ends well, one goes on.
async fn two_that_ended(world: &mut World) -> (Lane, Writer, [u64; 2]) {
    let (mut lane, mut writer, _) = world.owner().await;
    let batch = submission(&lane, world.now, 2, 2);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let batch = end_two(&lane, world.now);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let ended = &batch.outcomes;
    (lane, writer, [ended[0].seq, ended[1].seq])
}

fn departure(lane: &Lane, window: HourRange) -> Departure {
    Departure {
        lane: lane.id(),
        window,
        row: lane.link(),
        due_read: lane.due_read(),
        open: lane.open_within(window),
    }
}

#[tokio::test]
async fn a_window_is_sealed_when_no_older_transaction_is_left() {
    let mut world = World::new().await;
    let window = first_window(&world, Table::Execution);
    let mut foreign = PgConnection::connect(world.fresh.url()).await.unwrap();
    let mut foreign = foreign.begin().await.unwrap();
    let number = sqlx::query("select pg_current_xact_id()");
    number.execute(&mut *foreign).await.unwrap();
    let sealed = |windows: &WindowMap| {
        windows
            .sealed()
            .any(|what| what == (Table::Execution, window))
    };
    let windows = world.turn(1).await;
    assert!(
        !windows.is_closing(Table::Execution, window.from),
        "it is kept for a day"
    );
    assert!(
        world
            .turn(2)
            .await
            .is_closing(Table::Execution, window.from)
    );
    assert!(
        !sealed(&world.turn(2).await),
        "the other may still write to it"
    );
    foreign.rollback().await.unwrap();
    world.seal(2, (Table::Execution, window)).await;
}

#[tokio::test]
async fn what_is_open_outlives_its_window() {
    let mut world = World::new().await;
    let (lane, _, [over, open]) = two_that_ended(&mut world).await;
    let window = first_window(&world, Table::Execution);
    let database = world.database.clone();
    assert_eq!(
        world.carry(&lane, window).await,
        CarriedOver::Unasked,
        "nobody waits for it yet"
    );
    for table in Departure::TABLES {
        world.seal(3, (table, window)).await;
    }
    assert!(lane.open_within(window).is_empty(), "it waits in its table");
    for _ in 0..2 {
        assert_eq!(world.carry(&lane, window).await, CarriedOver::All(1));
    }
    let others = "let_go where lane <> 0";
    assert_eq!(
        (world.count("let_go").await, world.count(others).await),
        (3, 0)
    );
    for table in Departure::TABLES {
        world.let_go(1..LANES, (table, window)).await;
    }
    let windows = world.turn(3).await;
    assert!(
        windows.leaf(Table::Execution, window.from).is_err(),
        "it is out of use"
    );
    let mut house = Housekeeper::new(database.clone());
    assert!(house.remove_windows(AT_ONCE).await.unwrap() >= 3);
    assert_eq!(house.remove_windows(AT_ONCE).await.unwrap(), 0);
    assert_eq!(
        (world.count("execution").await, world.count("outcome").await),
        (0, 0)
    );

    let home = world.now.hour();
    let kept = database
        .execution(&windows, 1, place(&lane, home, open))
        .await
        .unwrap();
    assert_eq!(kept.expect("it is open").attempts.len(), 1);
    assert!(
        database
            .execution(&windows, 1, place(&lane, home, over))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn the_last_checkpoint_of_what_is_open_outlives_its_window() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let batch = submission(&lane, world.now, 1, 1);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let (batch, seq, last) = saves(&lane, &world, 3, Place::Window);
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    let window = first_window(&world, Table::Execution);
    for table in Departure::TABLES {
        world.seal(3, (table, window)).await;
    }
    for _ in 0..2 {
        assert_eq!(world.carry(&lane, window).await, CarriedOver::All(1));
    }
    assert_eq!(
        world.count("kept_checkpoint").await,
        1,
        "the others nobody needs"
    );
    for table in Departure::TABLES {
        world.let_go(1..LANES, (table, window)).await;
    }
    let (windows, home) = (world.turn(3).await, world.now.hour());
    assert!(windows.leaf(Table::Checkpoint, home).is_err());
    let state = async |mark| {
        let marks = [(seq, mark)];
        let states = (world.database).states(&windows, lane.id(), home, (&marks, 100));
        states.await.unwrap()
    };
    assert_eq!(state(last).await, [(seq, "state 3".into())]);

    // What is saved from here on goes there at once.
    let (batch, _, last) = saves(&lane, &world, 1, Place::Kept);
    writer.commit(&windows, &batch).await.unwrap();
    assert_eq!(state(last).await, [(seq, "state 4".into())]);
}

#[tokio::test]
async fn one_lane_that_needs_a_window_keeps_it() {
    let mut world = World::new().await;
    let window = first_window(&world, Table::Due);
    world.seal(2, (Table::Due, window)).await;
    for _ in 0..2 {
        world.let_go(1..LANES, (Table::Due, window)).await;
        assert!(world.turn(2).await.leaf(Table::Due, window.from).is_ok());
    }
    world.let_go(0..1, (Table::Due, window)).await;
    assert!(world.turn(2).await.leaf(Table::Due, window.from).is_err());
}

#[tokio::test]
async fn a_word_counts_where_the_row_is_there_that_it_rests_on() {
    let mut world = World::new().await;
    let (lane, _, _) = two_that_ended(&mut world).await;
    let [due, chain] = [Table::Due, Table::Chain].map(|table| (table, first_window(&world, table)));
    let word = |(table, window): (Table, HourRange), row: Link| LetGo {
        lane: lane.id(),
        table,
        window,
        row,
    };
    let lost = Link {
        batch: lane.link().batch ^ 1,
        ..lane.link()
    };
    let words = [
        word(due, lane.link()),
        word(due, lost),
        word(chain, lane.link()),
    ];
    let database = world.database.clone();
    let told = async || database.note_let_go(&words).await.unwrap();
    assert!(told().await.is_empty(), "no window is to go yet");
    for what in [due, chain] {
        world.seal(3, what).await;
    }
    assert_eq!(told().await, words[..1], "no snapshot is beyond");
    let end = chain.1.to.start().0;
    let snapshot = format!(
        "insert into public.lane_snapshot (lane, n, part, parts, body)
             values (0, {end}, 0, 1, '');"
    );
    world.execute(&snapshot).await;
    assert_eq!(told().await, [words[0], words[2]]);
    assert_eq!(world.count("let_go").await, 2);
}

#[tokio::test]
async fn with_more_than_may_be_carried_over_a_window_stays() {
    let mut world = World::new().await;
    let (lane, _, _) = two_that_ended(&mut world).await;
    let window = first_window(&world, Table::Execution);
    for table in Departure::TABLES {
        world.seal(3, (table, window)).await;
    }
    let most = async |most| {
        let departure = departure(&lane, window);
        let carried = world.database.carry_over(&world.windows, departure, most);
        (carried.await.unwrap(), world.count("let_go").await)
    };
    assert_eq!(most(0).await, (CarriedOver::TooMuch, 0));
    assert_eq!(most(1).await, (CarriedOver::All(1), 3));
}

#[tokio::test]
async fn a_chain_goes_on_in_another_window_by_two_rows_of_one_batch() {
    let mut world = World::new().await;
    let (mut lane, mut writer, lease) = world.owner().await;
    let at = world.now.plus(DAY * 2);
    let mut other = lane.clone();
    let rows = lane.move_on(at, Uuid::new_v4().as_u128()).to_vec();
    let batch = Batch {
        rows,
        ..Batch::default()
    };
    writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut lane, &batch);
    assert!(lane.link().n >= u64::try_from(at.0).unwrap());
    let late = submission(&other, world.now, 1, 0);
    let refused = writer.commit(&world.windows, &late).await;
    assert!(
        matches!(refused, Err(store::Error::Deposed { .. })),
        "{refused:?}"
    );
    let rows = other
        .move_on(at.plus(DAY), Uuid::new_v4().as_u128())
        .to_vec();
    let refused = writer
        .commit(
            &world.windows,
            &Batch {
                rows,
                ..Batch::default()
            },
        )
        .await;
    assert!(
        matches!(refused, Err(store::Error::Deposed { .. })),
        "{refused:?}"
    );

    let body = lane.to_snapshot();
    world
        .database
        .write_snapshot(lane.id(), lane.link(), &body)
        .await
        .unwrap();
    let window = first_window(&world, Table::Chain);
    world.seal(2, (Table::Chain, window)).await;
    world.let_go(0..LANES, (Table::Chain, window)).await;
    world.turn(2).await;
    let mut house = Housekeeper::new(world.database.clone());
    house.remove_windows(AT_ONCE).await.unwrap();
    let of_lane = format!("chain where lane = {}", lane.id().0);
    assert_eq!(
        world.count(&of_lane).await,
        1,
        "the rows before went with their window"
    );
    other = world.successor(&lease).await.0;
    assert_eq!(other.totals(), lane.totals());
}

#[tokio::test]
async fn nobody_waits_for_a_reader_that_holds_a_snapshot_while_windows_go() {
    let mut world = World::new().await;
    let (mut lane, mut writer, _) = world.owner().await;
    let window = first_window(&world, Table::Execution);
    let mut reader = PgConnection::connect(world.fresh.url()).await.unwrap();
    let mut reader = reader.begin().await.unwrap();
    for step in [
        "set transaction isolation level repeatable read",
        "select count(*) from public.execution",
    ] {
        sqlx::query(step).execute(&mut *reader).await.unwrap();
    }
    for table in [Table::Execution, Table::Outcome, Table::Due] {
        world.seal(3, (table, window)).await;
        world.let_go(0..LANES, (table, window)).await;
    }
    world.turn(3).await;

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let removals = tokio::spawn(remove_until(world.database.clone(), stopped));
    let at = world.now.plus(DAY * 3);
    let mut longest = Duration::ZERO;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        let one = Instant::now();
        let batch = submission_at(&lane, at);
        writer.commit(&world.windows, &batch).await.unwrap();
        apply(&mut lane, &batch);
        let reach = 5 * 24 + i32::try_from(begin.elapsed().as_secs()).unwrap() * 24;
        world
            .election
            .make_windows(&world.term, 24, reach)
            .await
            .unwrap();
        longest = longest.max(one.elapsed());
    }
    stop.send(()).unwrap();
    let (rounds, mut house) = removals.await.unwrap();
    assert!(rounds >= 2, "it was tried: {rounds}");
    assert!(
        longest < Duration::from_secs(2),
        "somebody waited {longest:?}"
    );
    let of_reader = "select count(*) from public.execution_";
    let leaf = sqlx::AssertSqlSafe(format!("{of_reader}{}", window.from));
    let there: i64 = sqlx::query_scalar(leaf)
        .fetch_one(&mut *reader)
        .await
        .unwrap();
    assert_eq!(there, 0, "the leaf that is read is there");
    reader.commit().await.unwrap();
    assert!(house.remove_windows(AT_ONCE).await.unwrap() >= 1);
    assert!(
        world
            .database
            .windows()
            .await
            .unwrap()
            .leaf(Table::Execution, window.from)
            .is_err()
    );
}

/// Tries to remove windows again and again; gives how often.
async fn remove_until(
    database: store::Database,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> (u32, Housekeeper) {
    let (mut house, mut rounds) = (Housekeeper::new(database), 0);
    while stopped.try_recv().is_err() {
        house.remove_windows(AT_ONCE).await.unwrap();
        rounds += 1;
    }
    (rounds, house)
}

fn submission_at(lane: &Lane, at: Micros) -> Batch {
    let mut batch = submission(lane, at, 1, 0);
    let executions = std::mem::take(&mut batch.executions);
    let executions = executions.into_iter().map(|new| NewExecution {
        place: Place::Window,
        ..new
    });
    batch.executions = executions.collect();
    batch
}

#[tokio::test]
async fn failures_are_kept_as_long_as_their_queue_says() {
    let mut world = World::new().await;
    let (lane, _, _) = two_that_ended(&mut world).await;
    world
        .execute("insert into tenant (name) values ('t'); insert into queue (tenant, name, lanes, failures_hours)
             values (1, 'q', '{0,1,2,3}', 72);")
        .await;
    world
        .execute("update outcome set state = 8 where state = 5")
        .await;
    let window = first_window(&world, Table::Execution);
    for table in Departure::TABLES {
        world.seal(3, (table, window)).await;
    }
    assert_eq!(world.carry(&lane, window).await, CarriedOver::All(1));
    assert_eq!(world.kept_after(2).await, (1, 1));
    // Somebody has it run again.
    world
        .execute(
            "insert into public.kept_outcome select win, lane, seq, fence + 1, tenant, queue, 0, 0, 3, 12, 0, 0, '',
                 claimed_at, 0, 0, 0, 0, at, null, null, null, null, null, false from public.kept_outcome;",
        )
        .await;
    assert_eq!(world.kept_after(4).await, (1, 2), "it is open");
    world
        .execute("update public.kept_outcome set state = 8 where state = 3")
        .await;
    assert_eq!(world.kept_after(4).await, (0, 0));
}

#[tokio::test]
async fn leaves_whose_time_is_over_are_frozen_once() {
    let world = World::new().await;
    let mut house = Housekeeper::new(world.database.clone());
    assert_eq!(house.freeze_windows(world.now).await.unwrap(), 0);
    let past = world.now.plus(DAY);
    assert_eq!(house.freeze_windows(past).await.unwrap(), Table::ALL.len());
    assert_eq!(house.freeze_windows(past).await.unwrap(), 0);
    let state = world.database.windows().await.unwrap();
    assert!(state.sealed().next().is_none(), "{:?}", WindowState::Open);
}
