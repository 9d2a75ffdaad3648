//! The database loses its last commits: a backup was restored, or a standby that lagged behind took over.
//! What was acknowledged since then may be gone; but everything from before ends, nothing is stuck, and no
//! number that was given out comes again.

mod lanes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use cluster::{Service, Timeline};
use e2e::{Rig, count_events, hand_in_each, retry_policy, submission, until};
use proto::v1::{Execution, ExecutionState, Submission};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;
use tonic::Code;

const ENDED_WITHIN: Duration = Duration::from_secs(40);
/// From the start of the restored server on.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Two clusters at a time would only slow each other down.
static ONE_AFTER_THE_OTHER: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_on_from_an_older_copy_gives_nothing_out_twice() -> Result<()> {
    a_lost_tail(Timeline::Same).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_on_as_another_timeline_gives_nothing_out_twice() -> Result<()> {
    a_lost_tail(Timeline::New).await
}

async fn a_lost_tail(timeline: Timeline) -> Result<()> {
    let _alone = ONE_AFTER_THE_OTHER.lock().await;
    let scene = Scene::begin().await?;
    let server = scene.rig.cluster.postgres().context("one of its own")?;

    let before = scene.hand_in_before_the_copy().await?;
    server.keep_copy()?;
    let lost = scene.hand_in_what_will_be_lost().await?;
    server.go_back_to_copy(timeline)?;

    let back = Instant::now();
    let after = scene.hand_in_after(&lost).await?;
    scene.all_end(&after).await?;
    println!("and has ended {:?} after the start", back.elapsed());
    ensure!(back.elapsed() < BACK_WITHIN, "that took too long");
    scene.all_end(&before).await?;

    let given: BTreeSet<&String> = before.iter().chain(&lost.ids).collect();
    let again: Vec<_> = after.iter().filter(|id| given.contains(id)).collect();
    ensure!(
        again.is_empty(),
        "ids that were given out before: {again:?}"
    );
    let seen = count_events(&scene.rig.cluster, Service::Scheduler, "database_changed")?;
    // The same timeline is told by what is missing in it, which a commit may meet before a renewal does.
    ensure!(
        seen > 0 || timeline == Timeline::Same,
        "no scheduler saw another database"
    );
    scene.the_next_owner_finds_everything().await?;
    scene.no_claim_was_handed_out_twice()?;
    lanes::assert_all_is_done(&scene.rig).await?;
    scene.rig.stop().await
}

/// A cluster whose attempts write down what they were handed.
struct Scene {
    rig: Rig,
    handed_out: PathBuf,
}

/// What was acknowledged and is gone.
struct Lost {
    ids: Vec<String>,
    keyed: BTreeMap<String, Submission>,
}

impl Scene {
    async fn begin() -> Result<Self> {
        let rig = Rig::start(|options| {
            options.database_url = None;
            options.worker_slots = 16;
        })
        .await?;
        let handed_out = rig.cluster.dir().join("handed-out");
        Ok(Self { rig, handed_out })
    }

    /// Notes the claim, `<execution>-<fence>`, and goes on as `then` says.
    fn work(&self, then: &str) -> Submission {
        let script = format!("echo $WATCHWORK_IDEMPOTENCY_KEY >> \"$0\"; {then}");
        let argv = json!(["sh", "-c", script, self.handed_out]);
        submission("command", &json!({ "argv": argv }))
    }

    /// Fails the first time, under a policy that has a number of its own.
    fn retried(&self, attempts: u32) -> Submission {
        Submission {
            retry_policy: Some(retry_policy(attempts, Duration::from_millis(200))),
            ..self.work("test $WATCHWORK_ATTEMPT -gt 1")
        }
    }

    fn keyed(&self, key: &str) -> Submission {
        Submission {
            idempotency_key: key.to_owned(),
            ..self.work("true")
        }
    }

    /// So many of each kind, the short ones in all lanes.
    fn mixed(&self, policy: u32) -> Vec<Submission> {
        let short = (0..48).map(|_| self.work("true"));
        let retried = (0..16).map(|_| self.retried(policy));
        short.chain(retried).collect()
    }

    async fn hand_in(&self, work: Vec<Submission>) -> Result<Vec<String>> {
        let taken = hand_in_each(&self.rig.client, work).await?;
        Ok(taken.into_iter().map(|one| one.id).collect())
    }

    async fn hand_in_by_sql(&self, count: usize) -> Result<Vec<String>> {
        let mut connection = PgConnection::connect(self.rig.cluster.database_url()).await?;
        let mut ids = Vec::new();
        for _ in 0..count {
            let id = sqlx::query_scalar(
                "select execution_id::text from watchwork.submit('demo', 'command', $1,
                     content_type => 'application/json')",
            )
            .bind(self.work("true").payload.to_vec())
            .fetch_one(&mut connection)
            .await?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// Some of it has ended when the copy is made, some runs, some waits for its time.
    async fn hand_in_before_the_copy(&self) -> Result<Vec<String>> {
        let mut ids = self.hand_in(self.mixed(3)).await?;
        ids.extend(self.hand_in_by_sql(16).await?);
        self.all_end(&ids).await?;
        let slow = (0..8).map(|_| self.work("sleep 3"));
        ids.extend(self.hand_in(slow.collect()).await?);
        let due = SystemTime::now() + Duration::from_secs(9);
        let later = (0..16).map(|_| Submission {
            due_at: Some(due.into()),
            ..self.work("true")
        });
        ids.extend(self.hand_in(later.collect()).await?);
        Ok(ids)
    }

    /// Most of it has ended when the server dies; some runs.
    async fn hand_in_what_will_be_lost(&self) -> Result<Lost> {
        let mut ids = self.hand_in(self.mixed(7)).await?;
        ids.extend(self.hand_in_by_sql(16).await?);
        let keys = (0..16).map(|number| format!("lost-{number}"));
        let keyed: Vec<Submission> = keys.map(|key| self.keyed(&key)).collect();
        let named = self.hand_in(keyed.clone()).await?;
        ids.extend(named.iter().cloned());
        self.all_end(&ids).await?;
        let slow = (0..8).map(|_| self.work("sleep 6"));
        let slow = self.hand_in(slow.collect()).await?;
        until("what is slow runs", ENDED_WITHIN, async || {
            let claims = self.claims()?;
            Ok(slow
                .iter()
                .all(|id| claims.iter().any(|claim| claim.starts_with(id))))
        })
        .await?;
        ids.extend(slow);
        let keyed = named.into_iter().zip(keyed).collect();
        Ok(Lost { ids, keyed })
    }

    /// The same again, with the lost keys among it; first what reaches lanes through their inboxes.
    async fn hand_in_after(&self, lost: &Lost) -> Result<Vec<String>> {
        let restored = SystemTime::now();
        let mut ids = Vec::new();
        until("the database takes work", BACK_WITHIN, async || {
            ids = self.hand_in_by_sql(16).await.unwrap_or_default();
            Ok(!ids.is_empty())
        })
        .await?;
        ids.extend(self.hand_in(self.mixed(3)).await?);
        self.all_lanes_are_taken_anew(restored).await?;
        // The policy's number is lost, and a key whose execution is lost names another one now.
        ids.extend(self.hand_in(self.mixed(7)).await?);
        let again = self.hand_in(lost.keyed.values().cloned().collect()).await?;
        let named: Vec<_> = again.iter().filter(|id| lost.ids.contains(id)).collect();
        ensure!(named.is_empty(), "keys still name what is lost: {named:?}");
        ids.extend(again);
        Ok(ids)
    }

    /// Waits until each lane has been taken over since then: its numbers go on at that time, in
    /// microseconds.
    async fn all_lanes_are_taken_anew(&self, since: SystemTime) -> Result<()> {
        const TAKEN: &str = "select count(distinct lane) from chain where n > $1";
        let micros = since.duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
        let micros = i64::try_from(micros)?;
        let lanes = self.rig.ledger.lanes().await?;
        until("all lanes are taken anew", BACK_WITHIN, async || {
            let taken = sqlx::query_scalar(TAKEN).bind(micros);
            let taken: i64 = taken.fetch_one(self.rig.ledger.pool()).await?;
            Ok(usize::try_from(taken)? == lanes)
        })
        .await?;
        println!(
            "all lanes are taken anew {:?} after the start",
            since.elapsed()?
        );
        Ok(())
    }

    async fn all_end(&self, ids: &[String]) -> Result<()> {
        let ended = until("all end", ENDED_WITHIN, async || {
            let outcomes = self
                .rig
                .ledger
                .final_outcomes(ids.iter().map(String::as_str));
            let outcomes = outcomes.await?;
            let twice: Vec<_> = outcomes.iter().filter(|(_, count)| **count > 1).collect();
            ensure!(twice.is_empty(), "ended more than once: {twice:?}");
            Ok(outcomes.values().all(|count| *count == 1))
        });
        if let Err(error) = ended.await {
            let outcomes = self
                .rig
                .ledger
                .final_outcomes(ids.iter().map(String::as_str));
            let mut open = outcomes.await?;
            open.retain(|_, count| *count == 0);
            return Err(error.context(format!("{} are open: {open:?}", open.len())));
        }
        Ok(())
    }

    /// What the restored database lacks must be in no scheduler's memory of names and numbers either: a
    /// scheduler that wasn't there before reads all that the others wrote.
    async fn the_next_owner_finds_everything(&self) -> Result<()> {
        let due = SystemTime::now() + Duration::from_secs(2);
        let waiting = (0..16).map(|_| Submission {
            due_at: Some(due.into()),
            ..self.retried(7)
        });
        let waiting = self.hand_in(waiting.collect()).await?;
        for scheduler in ["scheduler-1", "scheduler-2"] {
            self.rig.cluster.kill(scheduler)?;
        }
        for scheduler in ["scheduler-1", "scheduler-2"] {
            self.rig.cluster.restart(scheduler).await?;
        }
        self.all_end(&waiting).await?;
        for id in &waiting {
            let execution = self.read(id).await?;
            ensure!(
                execution.state() == ExecutionState::Succeeded && execution.attempts.len() >= 2,
                "{execution:?}"
            );
        }
        Ok(())
    }

    /// The execution, as soon as its lane has an owner.
    async fn read(&self, id: &str) -> Result<Execution> {
        let mut found = None;
        until("the lane's owner answers", BACK_WITHIN, async || {
            match self.rig.client.get(id).await {
                Err(status) if status.code() == Code::Unavailable => return Ok(false),
                answer => found = Some(answer?),
            }
            Ok(true)
        })
        .await?;
        found.context("it was waited for")
    }

    fn claims(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.handed_out)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn no_claim_was_handed_out_twice(&self) -> Result<()> {
        let claims = self.claims()?;
        let different: BTreeSet<&String> = claims.iter().collect();
        println!("{} claims were handed out", claims.len());
        ensure!(
            different.len() == claims.len(),
            "{} of {} claims were handed out twice",
            claims.len() - different.len(),
            claims.len()
        );
        Ok(())
    }
}
