//! A lane's owner is stopped in the middle of a commit: its transaction stays open, with rows that
//! nobody sees and everybody waits for. Its lanes go on under another owner all the same, and when it
//! wakes up it writes nothing under its old reign.

mod lanes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::{Member, Service};
use e2e::{
    HandedIn, Rig, Tracker, count_events, events, hand_in, hand_in_each, retry_policy, submission,
    until, until_logged,
};
use proto::v1::Submission;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

const BEFORE: usize = 400;
const MEANWHILE: usize = 60;
/// How long the owner is stopped: six times as long as its leases last.
const STOPPED_FOR: Duration = Duration::from_secs(30);
/// A lease of 5 s, what a take-over waits before it ends who blocks it, and time to spare.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(15);
const ENDED_WITHIN: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(10);

/// Two clusters at a time would only slow each other down.
static ONE_AFTER_THE_OTHER: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stops_inside_its_commit_holds_nobody_up_and_writes_nothing_when_it_wakes_up()
-> Result<()> {
    let _alone = ONE_AFTER_THE_OTHER.lock().await;
    let mut scene = Scene::begin().await?;
    let stopped = scene.stop_the_owner_inside_its_commit().await?;
    scene.the_lanes_are_taken_over(stopped.since).await?;
    ensure!(
        !scene.is_open(&stopped.transaction).await?,
        "the transaction that was in the way is still open"
    );
    scene.follow(stopped.handing_in.await??);
    scene.everything_ends().await?;
    while stopped.since.elapsed() < STOPPED_FOR {
        scene.hand_in(20).await?;
        scene.everything_ends().await?;
    }
    scene.nothing_is_written_when_the_owner_wakes_up().await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_whose_commit_hangs_in_the_database_itself_come_back_as_soon_as_that_goes_on()
-> Result<()> {
    let _alone = ONE_AFTER_THE_OTHER.lock().await;
    let mut scene = Scene::begin().await?;
    let stopped = scene.stop_the_owner_inside_its_commit().await?;
    let session = StoppedSession::stop(stopped.transaction.backend)?;
    until_logged(&*scene.other()?, ("blocker_ended", 0), TAKEN_OVER_WITHIN).await?;
    ensure!(
        scene.is_open(&stopped.transaction).await?,
        "a session that is stopped can't be ended"
    );
    ensure!(
        !scene.all_lanes_are_taken_over().await?,
        "lanes were taken over past a transaction that is still open"
    );
    drop(session);
    scene.the_lanes_are_taken_over(Instant::now()).await?;
    scene.follow(stopped.handing_in.await??);
    scene.everything_ends().await?;
    scene.nothing_is_written_when_the_owner_wakes_up().await?;
    scene.end().await
}

/// A cluster at work, one of whose schedulers is about to be stopped.
struct Scene {
    rig: Rig,
    tracker: Tracker,
    handed_in: Vec<HandedIn>,
    /// Who is stopped.
    owner: String,
    /// Who takes its lanes.
    other: String,
    /// Its lanes, and under which epoch it owns each.
    reign: BTreeMap<i16, i64>,
}

/// An owner that is stopped inside its open transaction.
struct Stopped {
    since: Instant,
    transaction: Transaction,
    /// What has been handed in since.
    handing_in: JoinHandle<Result<Vec<HandedIn>>>,
}

/// One transaction of one session of the server.
#[derive(sqlx::FromRow)]
struct Transaction {
    /// The session's process.
    backend: i32,
    /// When it began, as the server tells it: a session has many, one after the other.
    began: String,
}

impl Scene {
    /// Brings up a cluster with work, where commits can be held open.
    async fn begin() -> Result<Self> {
        let rig = Rig::start(|options| options.worker_slots = 16).await?;
        let (owner, other) = followed_and_other(&rig)?;
        let tracker = Tracker::new(rig.client.clone());
        let handed_in = hand_in(&rig.client, (0..BEFORE).map(work).collect()).await?;
        tracker.follow(&handed_in);
        let reign = "select lane, epoch from lane_lease where holder = $1";
        let reign: Vec<(i16, i64)> = sqlx::query_as(reign)
            .bind(&owner)
            .fetch_all(rig.ledger.pool())
            .await?;
        ensure!(!reign.is_empty(), "{owner} owns nothing");
        make_commits_holdable(&rig).await?;
        Ok(Self {
            rig,
            tracker,
            handed_in,
            owner,
            other,
            reign: reign.into_iter().collect(),
        })
    }

    fn owner(&self) -> Result<Arc<Member>> {
        self.rig.cluster.member(&self.owner)
    }

    fn other(&self) -> Result<Arc<Member>> {
        self.rig.cluster.member(&self.other)
    }

    fn lanes(&self) -> Vec<i16> {
        self.reign.keys().copied().collect()
    }

    fn epochs(&self) -> Vec<i64> {
        self.reign.values().copied().collect()
    }

    /// Holds the owner's next commit open, its rows inserted, and stops the owner then.
    async fn stop_the_owner_inside_its_commit(&self) -> Result<Stopped> {
        let pool = self.rig.ledger.pool();
        sqlx::query("insert into public.held select * from unnest($1::int2[], $2::int8[])")
            .bind(self.lanes())
            .bind(self.epochs())
            .execute(pool)
            .await?;
        // Makes it commit, and waits for its lanes' next owner.
        let client = self.rig.client.clone();
        let meanwhile = (0..MEANWHILE).map(work).collect();
        let handing_in = tokio::spawn(async move { hand_in_each(&client, meanwhile).await });
        let mut held = None;
        until("a commit is held open", SOON, async || {
            held = sqlx::query_as(HELD_OPEN).fetch_optional(pool).await?;
            Ok(held.is_some())
        })
        .await?;
        let transaction = held.context("it was waited for")?;
        self.owner()?.pause()?;
        let since = Instant::now();
        ensure!(
            self.is_open(&transaction).await?,
            "the commit ended before its owner was stopped"
        );
        Ok(Stopped {
            since,
            transaction,
            handing_in,
        })
    }

    /// Whether a transaction is still open.
    async fn is_open(&self, transaction: &Transaction) -> Result<bool> {
        const OPEN: &str = "select exists (select from pg_stat_activity
             where pid = $1 and xact_start::text = $2)";
        let open = sqlx::query_scalar(OPEN)
            .bind(transaction.backend)
            .bind(&transaction.began);
        Ok(open.fetch_one(self.rig.ledger.pool()).await?)
    }

    async fn hand_in(&mut self, count: usize) -> Result<()> {
        let handed_in = hand_in_each(&self.rig.client, (0..count).map(work).collect()).await?;
        self.follow(handed_in);
        Ok(())
    }

    fn follow(&mut self, handed_in: Vec<HandedIn>) {
        self.tracker.follow(&handed_in);
        self.handed_in.extend(handed_in);
    }

    /// Whether each of the owner's lanes has rows under a later epoch.
    async fn all_lanes_are_taken_over(&self) -> Result<bool> {
        const TAKEN: &str = "select count(distinct c.lane)
             from chain c join unnest($1::int2[], $2::int8[]) old(lane, epoch) using (lane)
             where c.epoch > old.epoch";
        let taken: i64 = sqlx::query_scalar(TAKEN)
            .bind(self.lanes())
            .bind(self.epochs())
            .fetch_one(self.rig.ledger.pool())
            .await?;
        Ok(usize::try_from(taken)? == self.reign.len())
    }

    async fn the_lanes_are_taken_over(&self, since: Instant) -> Result<()> {
        until("all lanes are taken over", TAKEN_OVER_WITHIN, async || {
            self.all_lanes_are_taken_over().await
        })
        .await?;
        let ended = events(&*self.other()?, "blocker_ended")?;
        println!(
            "{} lanes taken over after {:?}; sessions ended: {}",
            self.reign.len(),
            since.elapsed(),
            ended.len()
        );
        ensure!(!ended.is_empty(), "nobody was in the way");
        Ok(())
    }

    async fn everything_ends(&self) -> Result<()> {
        let counts = self.tracker.until_all_ended(ENDED_WITHIN).await?;
        ensure!(counts.ended == self.handed_in.len(), "{counts:?}");
        Ok(())
    }

    /// The rows of the old reign, and how many of them follow a row of a later one.
    async fn rows_of_the_old_reign(&self) -> Result<(i64, i64)> {
        const ROWS: &str = "select count(*), count(*) filter (where exists (
                 select from chain later where later.lane = c.lane and later.n < c.n
                     and later.epoch > c.epoch))
             from chain c join unnest($1::int2[], $2::int8[]) old(lane, epoch) using (lane, epoch)";
        Ok(sqlx::query_as(ROWS)
            .bind(self.lanes())
            .bind(self.epochs())
            .fetch_one(self.rig.ledger.pool())
            .await?)
    }

    /// Lets the owner go on, with nothing to keep its commits from being made any more.
    async fn nothing_is_written_when_the_owner_wakes_up(&mut self) -> Result<()> {
        let pool = self.rig.ledger.pool();
        sqlx::query("delete from public.held").execute(pool).await?;
        let before = self.rows_of_the_old_reign().await?;
        ensure!(before.0 > 0 && before.1 == 0, "{before:?}");
        let owner = self.owner()?;
        owner.resume()?;
        until_logged(&owner, ("commit_in_doubt", 0), SOON).await?;
        until_logged(&owner, ("lanes_lost", 0), SOON).await?;
        until("the owner has lanes again", ENDED_WITHIN, async || {
            let owned = events(&owner, "lane_adopted")?.len();
            Ok(
                owned > self.reign.len()
                    && !self.rig.ledger.lanes_of(&self.owner).await?.is_empty(),
            )
        })
        .await?;
        self.hand_in(MEANWHILE).await?;
        self.everything_ends().await?;
        let after = self.rows_of_the_old_reign().await?;
        ensure!(
            after == before,
            "rows under the old epochs (all, behind later ones): {before:?}, then {after:?}"
        );
        Ok(())
    }

    async fn end(self) -> Result<()> {
        let ids = self.handed_in.iter().map(|one| one.id.as_str());
        let outcomes = self.rig.ledger.final_outcomes(ids).await?;
        let wrong: Vec<_> = outcomes.iter().filter(|(_, count)| **count != 1).collect();
        ensure!(wrong.is_empty(), "final outcomes: {wrong:?}");
        let rig = self.rig;
        until(
            "everything in the database ends",
            ENDED_WITHIN,
            async || {
                let (unended, twice) = rig.ledger.unended_and_ended_twice().await?;
                ensure!(twice == 0, "{twice} executions ended twice");
                Ok(unended == 0)
            },
        )
        .await?;
        lanes::assert_all_is_done(&rig).await?;
        let confused = count_events(&rig.cluster, Service::Scheduler, "lane_inconsistent")?;
        ensure!(confused == 0, "memory and chain disagreed {confused} times");
        drop(self.tracker);
        rig.stop().await
    }
}

/// The scheduler that tells the gateway who owns what, and the other one. The worst case is that the first
/// one stops: the gateway has to notice before it learns of the lanes' next owner.
fn followed_and_other(rig: &Rig) -> Result<(String, String)> {
    let gateway = rig.cluster.member("api-gateway-1")?;
    let found = events(&gateway, "cluster_view_found")?;
    let address = found.last().context("it follows somebody")?["context"]["address"].clone();
    let schedulers = rig.cluster.members().into_iter();
    let schedulers = schedulers.filter(|member| member.service() == Service::Scheduler);
    let (followed, others): (Vec<_>, Vec<_>) = schedulers.partition(|member| {
        let own = member.address().map(|own| format!("http://{own}"));
        address.as_str() == own.as_deref()
    });
    let name = |members: Vec<Arc<Member>>| members.first().map(|it| it.instance().to_owned());
    name(followed)
        .zip(name(others))
        .context("there are two schedulers")
}

/// A session of the server that is stopped; it goes on when this is dropped, or its database could
/// never be dropped.
struct StoppedSession(Pid);

impl StoppedSession {
    fn stop(backend: i32) -> Result<Self> {
        let pid = Pid::from_raw(backend).context("a process id")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for StoppedSession {
    fn drop(&mut self) {
        // It may be gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Sleeps, and some that fail at first.
fn work(number: usize) -> Submission {
    match number % 8 {
        0 => Submission {
            retry_policy: Some(retry_policy(5, Duration::from_millis(300))),
            ..submission("fail", &json!({"times": 1}))
        },
        _ => submission("sleep", &json!({"ms": 50 + number * 37 % 151})),
    }
}

/// A transaction whose commit is held open. It is seen only while it sleeps, not between two looks of it.
const HELD_OPEN: &str = "select pid as backend, xact_start::text as began from pg_stat_activity
     where datname = current_database() and wait_event = 'PgSleep' limit 1";

/// Makes every statement that has written a chain row of a lane and epoch in `held` wait while they
/// are there. No limit on locks ends that, only the one on statements, which is longer than a lease.
async fn make_commits_holdable(rig: &Rig) -> Result<()> {
    const HOLD: &str = "create table public.held (lane int2, epoch int8);
        create function public.hold() returns trigger language plpgsql as $$
        begin
            while exists (select from public.held join fresh using (lane, epoch)) loop
                perform pg_sleep(0.02);
            end loop;
            return null;
        end $$;";
    let pool = rig.ledger.pool();
    sqlx::raw_sql(HOLD).execute(pool).await?;
    let leaves: Vec<String> =
        sqlx::query_scalar("select leaf from \"window\" where table_name = 'chain'")
            .fetch_all(pool)
            .await?;
    for leaf in leaves {
        let trigger = format!(
            "create trigger hold after insert on {leaf} referencing new table as fresh
             for each statement execute function public.hold()"
        );
        sqlx::raw_sql(AssertSqlSafe(trigger)).execute(pool).await?;
    }
    Ok(())
}
