//! Lanes on a real PostgreSQL: fences, take-over, windows, and everything through its rows.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

use std::sync::Arc;
use std::time::Duration;

use cluster::testing::{FreshDatabase, fresh_database};
use domain::lane::{Class, DueMark, Ending, Lane, TimedEntry};
use domain::{
    AttemptResult, Backoff, ExecutionState, Hour, LaneId, Micros, Priority, Reason, RetryPolicy,
};
use store::{
    Batch, Claimant, Database, DueEntry, Election, Error, Head, LaneLease, LeaseKeeper,
    NewExecution, Outcome, Term, TermHolder, WindowMap, Writer,
};
use uuid::Uuid;

const LANES: u16 = 4;
const CLASS: Class = Class {
    tenant: 1,
    queue: 1,
    priority: Priority::Normal,
    job_type: 1,
};

/// An installed database with windows and lanes, and one scheduler that holds some.
struct World {
    _fresh: FreshDatabase,
    database: Database,
    election: Election,
    term: Term,
    windows: WindowMap,
    leases: LeaseKeeper,
    claimant: Claimant,
    now: Micros,
}

impl World {
    async fn new() -> Self {
        let fresh = fresh_database().await;
        let database = connect(fresh.url()).await;
        database.install(LANES, [7; 16]).await.unwrap();
        let holder = TermHolder {
            incarnation: Uuid::new_v4(),
            label: "test".into(),
            lease: Duration::from_secs(60),
        };
        let mut election = Election::new(database.clone(), holder);
        let term = election
            .campaign()
            .await
            .unwrap()
            .expect("nobody else leads");
        election.make_windows(&term, 24, 25).await.unwrap();
        election.make_lanes(&term, LANES).await.unwrap();
        let windows = database.windows().await.unwrap();
        let (claimant, mut leases) = scheduler(&database, "scheduler-1");
        let (_, now) = leases.renew(&claimant).await.unwrap();
        Self {
            _fresh: fresh,
            database,
            election,
            term,
            windows,
            leases,
            claimant,
            now,
        }
    }

    async fn owner(&mut self) -> (Lane, Writer, LaneLease) {
        let lease = self.leases.take(&self.claimant, 1).await.unwrap()[0];
        let mut writer = Writer::new(self.database.clone());
        let lane = writer.take_over(&lease, self.now).await.unwrap();
        (lane, writer, lease)
    }

    /// Another scheduler takes the lane after its lease has run out.
    async fn successor(&mut self, lease: &LaneLease) -> (Lane, Writer) {
        self.leases
            .release(&self.claimant, &[lease.lane])
            .await
            .unwrap();
        let (other, mut leases) = scheduler(&self.database, "scheduler-2");
        let taken = leases.take(&other, usize::from(LANES)).await.unwrap();
        let lease = taken
            .into_iter()
            .find(|taken| taken.lane == lease.lane)
            .expect("it is free");
        let mut writer = Writer::new(self.database.clone());
        let lane = writer.take_over(&lease, self.now).await.unwrap();
        (lane, writer)
    }
}

async fn connect(url: &str) -> Database {
    Database::connect(url, 2, Arc::new(|_, _, _| {}))
        .await
        .unwrap()
}

fn scheduler(database: &Database, id: &str) -> (Claimant, LeaseKeeper) {
    let claimant = Claimant {
        id: id.into(),
        incarnation: Uuid::new_v4(),
        address: "http://127.0.0.1:1".into(),
        lease: Duration::from_secs(60),
    };
    (claimant, LeaseKeeper::new(database.clone()))
}

fn head(payload: &'static [u8]) -> Arc<Head> {
    Arc::new(Head {
        tenant: 1,
        queue: 1,
        job_type: 1,
        priority: Priority::Normal,
        accepted: Micros(0),
        timeout: Duration::from_secs(60),
        retry_policy: 1,
        trace: Some([9; 25]),
        parent_span: None,
        request_at: Some(Micros(1_790_000_000_000_001)),
        tracestate: Some("a=1".into()),
        correlation_id: None,
        labels: [("team".to_owned(), "ops \"1\"".to_owned())].into(),
        headers: [("X-Shop".to_owned(), "7".to_owned())].into(),
        payload: payload.into(),
        content_type: Some("text/plain".into()),
    })
}

/// A batch that accepts `count` executions and claims the first `claim` of them.
fn submission(lane: &Lane, at: Micros, count: u32, claim: u32) -> Batch {
    let mut draft = lane.draft(at);
    let first = draft.accept(CLASS, count);
    draft.claim(CLASS, claim, &Arc::from("worker-1"));
    let executions = (first..first + u64::from(count)).map(|seq| NewExecution {
        lane: lane.id(),
        seq,
        home: at.hour(),
        head: head(b"payload"),
    });
    Batch {
        executions: executions.collect(),
        rows: vec![draft.seal(Uuid::new_v4().as_u128())],
        ..Batch::default()
    }
}

fn apply(lane: &mut Lane, batch: &Batch) {
    for row in &batch.rows {
        lane.apply(row).unwrap();
    }
}

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
        .execution(&world.windows, lane.id(), home, seqs[0])
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

/// Ends one attempt well, and one so that it is tried again beyond what has been read of `due`.
fn end_two(lane: &Lane, at: Micros) -> Batch {
    let backoff = Backoff {
        initial: Duration::from_secs(60),
        jitter: false,
        ..RetryPolicy::default().backoff
    };
    let policy = RetryPolicy {
        backoff,
        ..RetryPolicy::default()
    };
    let mut draft = lane.draft(at);
    let mut batch = Batch::default();
    let mut running: Vec<_> = lane.running().iter().collect();
    running.sort_by_key(|(seq, _)| **seq);
    for ((seq, running), result) in running
        .into_iter()
        .zip([AttemptResult::Success, AttemptResult::Error])
    {
        let decision = domain::decide(result, false, running.budgets, &policy, 0.5);
        let ending = draft.end(*seq, running.fence, &decision).unwrap();
        if let Ending::Retried { due, to_table } = ending {
            assert!(to_table, "nothing has been read ahead");
            let (class, home) = (running.class, running.home);
            let mark = DueMark { due, seq: *seq };
            let entry = TimedEntry {
                mark,
                class,
                home,
                budgets: decision.budgets,
            };
            batch.due.push(DueEntry {
                lane: lane.id(),
                entry,
            });
        }
        batch
            .outcomes
            .push(outcome(lane.id(), *seq, running, result));
    }
    batch.rows.push(draft.seal(Uuid::new_v4().as_u128()));
    batch
}

fn outcome(
    lane: LaneId,
    seq: u64,
    running: &domain::lane::Running,
    result: AttemptResult,
) -> Outcome {
    let success = result == AttemptResult::Success;
    Outcome {
        lane,
        seq,
        home: running.home,
        fence: running.fence,
        tenant: 1,
        queue: 1,
        attempt: 1,
        result,
        state: if success {
            ExecutionState::Succeeded
        } else {
            ExecutionState::Retrying
        },
        reason: if success {
            Reason::None
        } else {
            Reason::HandlerError
        },
        budgets: running.budgets,
        worker: Arc::clone(&running.worker),
        claimed: running.claimed,
        queued_us: 1,
        dispatch_us: 2,
        run_us: 3,
        report_us: 4,
        next_at: None,
        error_class: None,
        error_message: None,
        output: success.then(|| "done".into()),
        output_type: None,
        trace_kept: false,
    }
}

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
        .execution(&world.windows, old.id(), home, seq)
        .await
        .unwrap();
    assert!(left.is_none(), "nothing of the refused batch is there");

    let batch = submission(&new, world.now, 1, 1);
    new_writer.commit(&world.windows, &batch).await.unwrap();
    apply(&mut new, &batch);
    assert_eq!(new_writer.replay(new.id()).await.unwrap(), new);
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
    let refused = writer.take_over(&lease, world.now).await;
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
    let (left, _) = others.renew(&short).await.unwrap();
    assert_eq!(left, [], "what has run out is not renewed");
    let taken = world.leases.take(&world.claimant, 4).await.unwrap();
    assert_eq!(taken.len(), 1, "but taken");
    assert!(taken[0].epoch > theirs[0].epoch);
}

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
