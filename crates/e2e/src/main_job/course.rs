//! The course of the main job: work comes in three waves, and the kills fall between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use cluster::Cluster;
use proto::v1::Submission;
use watchwork::client::Client;

use super::faults::{KilledScheduler, KilledWorker, kill_scheduler, kill_worker};
use super::progress::Progress;
use super::tasks::Task;
use crate::{Counts, HandedIn, Ledger, Tracker, hand_in, hand_in_each};

/// All together must be shorter than a minute.
const ALL_ENDED_WITHIN: Duration = Duration::from_secs(30);
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
    /// Not everything ended in time.
    pub(super) unended: Option<Error>,
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
    /// Work is refused for good, somebody can't be killed, or the others don't take over in time.
    pub(super) async fn run(&self, tasks: &[Task]) -> Result<Course> {
        let progress = Progress::show(Arc::clone(self.tracker), tasks.len());
        let begin = Instant::now();
        let mut waves = Waves {
            tasks,
            handed_in: Vec::new(),
        };

        waves.hand_in_until(self, 0.4).await?;
        self.until_ended(tasks.len() / 5).await?;
        let worker = self.lose_a_worker(&progress, &mut waves).await?;
        waves.hand_in_until(self, 0.85).await?;
        let scheduler = self.lose_a_scheduler(&progress, &mut waves).await?;
        let unended = self.tracker.until_all_ended(ALL_ENDED_WITHIN).await.err();
        Ok(Course {
            handed_in: waves.handed_in,
            begin,
            worker,
            scheduler,
            unended,
        })
    }

    /// Kills a worker, hands in more, and waits until what it ran was taken back.
    async fn lose_a_worker(
        &self,
        progress: &Progress,
        waves: &mut Waves<'_>,
    ) -> Result<(KilledWorker, Duration)> {
        let killed = kill_worker(self.cluster, self.tracker)?;
        progress.say(&format!(
            "  kill -9 {}, which holds {} executions",
            killed.instance,
            killed.running.len()
        ));
        let (recovery, handed_in) = tokio::join!(
            killed.recovery(self.tracker),
            waves.hand_in_until(self, 0.6)
        );
        handed_in?;
        Ok((killed, recovery?))
    }

    /// Kills a scheduler, hands in the rest, and waits until its lanes have another owner.
    async fn lose_a_scheduler(
        &self,
        progress: &Progress,
        waves: &mut Waves<'_>,
    ) -> Result<(KilledScheduler, Duration)> {
        self.tracker
            .until(ALL_ENDED_WITHIN, Counts::are_of_all)
            .await?;
        let killed = kill_scheduler(self.cluster, self.ledger, self.tracker).await?;
        progress.say(&format!(
            "  kill -9 {}, while {} executions run and {} wait in its {} of {} lanes",
            killed.instance,
            killed.running,
            killed.waiting,
            killed.lanes.len(),
            killed.of_lanes,
        ));
        let (recovery, handed_in) =
            tokio::join!(killed.recovery(self.ledger), waves.hand_in_until(self, 1.0));
        handed_in?;
        Ok((killed, recovery?))
    }

    async fn until_ended(&self, count: usize) -> Result<()> {
        let enough = |counts: &Counts| counts.ended >= count;
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
