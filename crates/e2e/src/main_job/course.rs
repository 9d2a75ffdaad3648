//! The course of the main job: work comes in three waves, and the kills fall between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use cluster::Cluster;
use proto::v1::Submission;
use watchwork::client::Client;

use super::faults::{KilledScheduler, KilledWorker, kill_scheduler, kill_worker};
use super::progress::Progress;
use super::tasks::Task;
use crate::{HandedIn, Ledger, Tracker, hand_in, hand_in_each};

/// All together must be shorter than a minute.
const ALL_ENDED_WITHIN: Duration = Duration::from_secs(45);
const BATCH: usize = 40;
/// Every so many batches one goes as single submissions.
const SINGLES_EVERY: usize = 3;

/// What happened.
pub(super) struct Course {
    /// In the order of the tasks.
    pub(super) handed_in: Vec<HandedIn>,
    pub(super) begin: Instant,
    pub(super) worker: (KilledWorker, Duration),
    pub(super) scheduler: (KilledScheduler, Duration),
}

/// Where the work goes and who follows it.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) client: &'a Client,
    pub(super) ledger: &'a Ledger,
    pub(super) tracker: &'a Arc<Tracker>,
}

impl Stage<'_> {
    /// Hands everything in, kills a worker and a scheduler on the way, and waits for the end.
    ///
    /// # Errors
    /// Work is refused for good, somebody can't be killed, or not everything ends in time.
    pub(super) async fn run(&self, tasks: &[Task]) -> Result<Course> {
        let progress = Progress::show(Arc::clone(self.tracker), tasks.len());
        let begin = Instant::now();
        let mut waves = Waves {
            tasks,
            handed_in: Vec::new(),
        };

        waves.hand_in_until(self, 0.4).await?;
        self.until_ended(tasks.len() / 8).await?;
        let worker = kill_worker(self.cluster, self.tracker)?;
        progress.say(&format!(
            "  kill -9 {}, which runs {} executions",
            worker.instance,
            worker.running.len()
        ));
        let (worker_recovery, handed_in) = tokio::join!(
            worker.recovery(self.tracker),
            waves.hand_in_until(self, 0.6)
        );
        handed_in?;

        waves.hand_in_until(self, 0.85).await?;
        let scheduler = kill_scheduler(self.cluster, self.ledger, self.tracker).await?;
        progress.say(&format!(
            "  kill -9 {}, while {} executions run and {} wait in its {} of {} lanes",
            scheduler.instance,
            scheduler.running,
            scheduler.waiting,
            scheduler.lanes.len(),
            scheduler.of_lanes,
        ));
        let (scheduler_recovery, handed_in) = tokio::join!(
            scheduler.recovery(self.ledger),
            waves.hand_in_until(self, 1.0)
        );
        handed_in?;
        let course = Course {
            worker: (worker, worker_recovery?),
            scheduler: (scheduler, scheduler_recovery?),
            begin,
            handed_in: waves.handed_in,
        };
        self.tracker.until_all_ended(ALL_ENDED_WITHIN).await?;
        Ok(course)
    }

    async fn until_ended(&self, count: usize) -> Result<()> {
        let enough = |counts: &crate::Counts| counts.ended >= count;
        self.tracker.until(ALL_ENDED_WITHIN, enough).await.map(drop)
    }
}

/// The tasks and how far they are handed in.
struct Waves<'a> {
    tasks: &'a [Task],
    handed_in: Vec<HandedIn>,
}

impl Waves<'_> {
    /// Hands in what is missing of this part of the whole: most in batches, some singly.
    async fn hand_in_until(&mut self, stage: &Stage<'_>, part: f64) -> Result<()> {
        let end = (self.tasks.len() as f64 * part).round() as usize;
        let mut batches = 0;
        while self.handed_in.len() < end {
            let begin = self.handed_in.len();
            let some = &self.tasks[begin..end.min(begin + BATCH)];
            let some: Vec<Submission> = some.iter().map(|task| task.submission.clone()).collect();
            batches += 1;
            let taken = if batches % SINGLES_EVERY == 0 {
                hand_in_each(stage.client, some).await?
            } else {
                hand_in(stage.client, some).await?
            };
            stage.tracker.follow(&taken);
            self.handed_in.extend(taken);
        }
        Ok(())
    }
}
