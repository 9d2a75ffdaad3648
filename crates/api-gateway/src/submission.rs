//! From a checked submission to the verdict of its lane's owner.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::{Micros, limits};
use proto::internal::v1::{ForwardedSubmission, RequestOrigin};
use proto::v1::submit_verdict::Verdict;
use proto::v1::{Submission, SubmitResponse, SubmitVerdict};
use tonic::Code;

use crate::batch::Batch;
use crate::cluster_view::{ClusterView, View, no_owner};
use crate::keys::Principal;
use crate::problem::Problem;
use crate::queues::{Queue, Queues};
use crate::scheduler_link::CallFailure;
use crate::validation::check_submission;

/// How long a submission that reached nobody waits for news of the cluster before it tries again.
const PATIENCE: Duration = Duration::from_millis(250);

/// Takes submissions to the owners of their lanes.
pub(crate) struct Submitter {
    cluster: ClusterView,
    queues: Queues,
}

impl Submitter {
    pub(crate) fn new(cluster: ClusterView) -> Self {
        Self {
            queues: Queues::new(cluster.clone()),
            cluster,
        }
    }

    /// Has one submission stored, unless its key's was stored before, and gives its execution's id.
    ///
    /// # Errors
    /// What is wrong with it, or why it wasn't (or may not have been) taken.
    pub(crate) async fn submit(
        &self,
        principal: Principal,
        mut submission: Submission,
        origin: RequestOrigin,
    ) -> Result<SubmitResponse, Problem> {
        check_submission(&mut submission, now())?;
        let queue = self.queues.resolve(principal, &submission.queue).await?;
        let item = Box::new(forwarded(principal, &queue, submission, origin));
        let (view, first) = self.hand_over(&queue, item.clone()).await?;
        let verdict = match first {
            Err(failure) if failure.is_harmless() => {
                if !queue.is_reachable(&view) {
                    self.cluster.newer_than(&view, PATIENCE).await;
                }
                self.hand_over(&queue, item).await?.1
            }
            other => other,
        };
        let verdict = verdict.map_err(|failure| failure.of_submission())?;
        match verdict.verdict {
            Some(Verdict::ExecutionId(execution_id)) => Ok(SubmitResponse {
                execution_id,
                duplicate: verdict.duplicate,
            }),
            Some(Verdict::Refusal(refusal)) => Err(refusal.into()),
            None => Err(no_verdict()),
        }
    }

    async fn hand_over(
        &self,
        queue: &Queue,
        mut item: Box<ForwardedSubmission>,
    ) -> Result<(Arc<View>, Result<SubmitVerdict, CallFailure>), Problem> {
        let view = self.cluster.now();
        let lane = queue.lane_for(&view, &item);
        item.lane = lane.0.into();
        let taker = view.taker(lane).ok_or_else(|| no_owner(&view, lane))?;
        let verdict = taker.submit_single(item).await;
        Ok((view, verdict))
    }

    /// Has submissions stored, each by itself; their verdicts are in the same order. What couldn't
    /// be sent isn't tried again here: its refusal says that its caller may.
    ///
    /// # Errors
    /// The batch as a whole is empty or has too many items.
    pub(crate) async fn submit_batch(
        &self,
        principal: Principal,
        submissions: Vec<Submission>,
        origins: Vec<RequestOrigin>,
    ) -> Result<Vec<SubmitVerdict>, Problem> {
        check_batch(submissions.len())?;
        let mut submissions = submissions;
        let mut queues = Vec::with_capacity(submissions.len());
        let mut queue_before = None;
        for submission in &mut submissions {
            queues.push(self.check(principal, submission, &mut queue_before).await);
        }
        let mut batch = Batch::new(self.cluster.now(), submissions.len());
        for (place, ((submission, origin), queue)) in
            submissions.into_iter().zip(origins).zip(queues).enumerate()
        {
            match queue {
                Ok(queue) => {
                    let item = forwarded(principal, &queue, submission, origin);
                    batch.assign(place, item, &queue);
                }
                Err(problem) => batch.refuse(place, problem),
            }
        }
        Ok(batch.send().await)
    }

    /// Checks one item and finds its queue, which often is that of the item before.
    async fn check(
        &self,
        principal: Principal,
        submission: &mut Submission,
        queue_before: &mut Option<(String, Arc<Queue>)>,
    ) -> Result<Arc<Queue>, Problem> {
        check_submission(submission, now())?;
        if let Some((name, queue)) = queue_before
            && *name == submission.queue
        {
            return Ok(Arc::clone(queue));
        }
        let queue = self.queues.resolve(principal, &submission.queue).await?;
        *queue_before = Some((submission.queue.clone(), Arc::clone(&queue)));
        Ok(queue)
    }
}

/// The item as it travels, its lane still to be chosen.
fn forwarded(
    principal: Principal,
    queue: &Queue,
    submission: Submission,
    origin: RequestOrigin,
) -> ForwardedSubmission {
    ForwardedSubmission {
        tenant: principal.tenant,
        queue: queue.number,
        lane: 0,
        submission: Some(submission),
        origin: Some(origin),
    }
}

/// By this gateway's clock. Its error is nothing beside the ten years that it is for.
fn now() -> Micros {
    Micros::from(SystemTime::now())
}

fn check_batch(items: usize) -> Result<(), Problem> {
    if (1..=limits::MAX_BATCH_ITEMS).contains(&items) {
        return Ok(());
    }
    let message = format!(
        "{items} items; 1 to {} are allowed",
        limits::MAX_BATCH_ITEMS
    );
    Err(Problem::invalid("submissions", message))
}

fn no_verdict() -> Problem {
    let message = "the scheduler gave no verdict; it may or may not have been taken";
    Problem::new(Code::Unavailable, "IN_DOUBT", message)
}
