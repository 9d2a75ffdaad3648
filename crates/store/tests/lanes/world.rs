//! An installed database, and what the tests do with it.

use std::sync::Arc;
use std::time::Duration;

use cluster::testing::{FreshDatabase, fresh_database};
use domain::lane::{Class, DatabaseIdentity, DueMark, Ending, Lane, TimedEntry, Wait};
use domain::{
    AttemptResult, Backoff, ExecutionState, Hour, LaneId, Micros, Priority, Reason, RetryPolicy,
};
use sqlx::Connection;
use store::{
    Batch, Claimant, Database, DueEntry, Election, ExecutionPlace, Head, LaneLease, LeaseKeeper,
    NewExecution, Outcome, Place, Term, TermHolder, WindowMap, Writer,
};
pub(crate) use store::{
    CarryOver, KeepHouse, KeepLeases, Lead, PostWork, ReadExecutions, Storage, WriteLanes,
    WriteSnapshots,
};
use uuid::Uuid;

pub(crate) const LANES: u16 = 4;

pub(crate) const CLASS: Class = Class {
    tenant: 1,
    queue: 1,
    priority: Priority::Normal,
    job_type: 1,
    suspect: false,
};

pub(crate) const IDENTITY: DatabaseIdentity = DatabaseIdentity {
    system: 1,
    timeline: 1,
};

/// An installed database with windows and lanes, and one scheduler that holds some.
pub(crate) struct World {
    pub(crate) fresh: FreshDatabase,
    pub(crate) database: Database,
    pub(crate) election: Election,
    pub(crate) election_incarnation: Uuid,
    pub(crate) term: Term,
    pub(crate) windows: WindowMap,
    pub(crate) leases: LeaseKeeper,
    pub(crate) claimant: Claimant,
    pub(crate) now: Micros,
}

impl World {
    pub(crate) async fn new() -> Self {
        let fresh = fresh_database().await;
        let database = connect(fresh.url()).await;
        database.install(LANES, [7; 16]).await.unwrap();
        let holder = TermHolder {
            incarnation: Uuid::new_v4(),
            label: "test".into(),
            lease: Duration::from_secs(60),
        };
        let election_incarnation = holder.incarnation;
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
        let now = leases.renew(&claimant).await.unwrap().now;
        Self {
            fresh,
            database,
            election,
            election_incarnation,
            term,
            windows,
            leases,
            claimant,
            now,
        }
    }

    /// Runs statements of the test's own, beside our tables, whatever the role's own schema is called.
    pub(crate) async fn execute(&self, statements: &str) {
        let mut connection = sqlx::PgConnection::connect(self.fresh.url()).await.unwrap();
        let statements = format!("set search_path = public; {statements}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    pub(crate) async fn owner(&mut self) -> (Lane, Writer, LaneLease) {
        let lease = self.leases.take(&self.claimant, 1).await.unwrap()[0];
        let mut writer = Writer::new(self.database.clone());
        let lane = writer.take_over(&lease, IDENTITY, self.now).await.unwrap();
        (lane, writer, lease)
    }

    /// Another scheduler takes the lane after its lease has run out.
    pub(crate) async fn successor(&mut self, lease: &LaneLease) -> (Lane, Writer) {
        self.successor_in(lease, IDENTITY).await
    }

    /// The same, to whom the database looks like this.
    pub(crate) async fn successor_in(
        &mut self,
        lease: &LaneLease,
        identity: DatabaseIdentity,
    ) -> (Lane, Writer) {
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
        let lane = writer.take_over(&lease, identity, self.now).await.unwrap();
        (lane, writer)
    }

    /// How many rows there are of a table, or of a table and a condition.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let mut connection = sqlx::PgConnection::connect(self.fresh.url()).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("select count(*) from public.{sql}"));
        let count = sqlx::query_scalar(sql).fetch_one(&mut connection);
        count.await.unwrap()
    }
}

/// Where an execution of a lane is.
pub(crate) fn place(lane: &Lane, home: Hour, seq: u64) -> ExecutionPlace {
    let lane = lane.id();
    ExecutionPlace { lane, seq, home }
}

pub(crate) async fn connect(url: &str) -> Database {
    Database::connect(url, 2, Arc::new(|_, _, _| {}))
        .await
        .unwrap()
}

pub(crate) fn scheduler(database: &Database, id: &str) -> (Claimant, LeaseKeeper) {
    let claimant = Claimant {
        id: id.into(),
        incarnation: Uuid::new_v4(),
        address: "http://127.0.0.1:1".into(),
        lease: Duration::from_secs(60),
        proof: [1; 32],
    };
    (claimant, LeaseKeeper::new(database.clone()))
}

pub(crate) fn head(payload: &'static [u8]) -> Arc<Head> {
    Arc::new(Head {
        tenant: 1,
        queue: 1,
        job_type: 1,
        priority: Priority::Normal,
        accepted: Micros(0),
        due: None,
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
pub(crate) fn submission(lane: &Lane, at: Micros, count: u32, claim: u32) -> Batch {
    let mut draft = lane.draft(at);
    let first = draft.accept(CLASS, count);
    draft.claim(CLASS, claim, &Arc::from("worker-1"));
    let executions = (first..first + u64::from(count)).map(|seq| NewExecution {
        lane: lane.id(),
        seq,
        home: at.hour(),
        head: head(b"payload"),
        place: Place::Window,
    });
    Batch {
        executions: executions.collect(),
        rows: vec![draft.seal(Uuid::new_v4().as_u128())],
        ..Batch::default()
    }
}

pub(crate) fn apply(lane: &mut Lane, batch: &Batch) {
    for row in &batch.rows {
        lane.apply(row).unwrap();
    }
}

/// Ends one attempt well, and one so that it is tried again beyond what has been read of `due`.
pub(crate) fn end_two(lane: &Lane, at: Micros) -> Batch {
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
        let decision = domain::decide(result.into(), running.budgets, &policy, 0.5);
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
                wait: Wait::Retrying,
            };
            batch.due.push(DueEntry {
                lane: lane.id(),
                entry,
                place: Place::Window,
            });
        }
        batch
            .outcomes
            .push(outcome(lane.id(), *seq, running, result));
    }
    batch.rows.push(draft.seal(Uuid::new_v4().as_u128()));
    batch
}

pub(crate) fn outcome(
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
        result: Some(result),
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
        items: domain::Items::default(),
        progress: None,
        place: Place::Window,
    }
}
