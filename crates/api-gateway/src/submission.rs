//! From a checked submission to the verdict of its lane's owner.

use std::sync::Arc;
use std::time::Duration;

use domain::limits;
use futures::future::join_all;
use proto::internal::v1::{ForwardedSubmission, RequestOrigin};
use proto::v1::submit_verdict::Verdict;
use proto::v1::{Submission, SubmitVerdict};
use tonic::Code;

use crate::cluster_view::{ClusterView, View, no_owner};
use crate::keys::Principal;
use crate::problem::Problem;
use crate::queues::{Queue, Queues};
use crate::scheduler_link::{CallFailure, SchedulerLink};
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

    /// Has one submission stored, and gives its execution's id.
    ///
    /// # Errors
    /// What is wrong with it, or why it wasn't (or may not have been) taken.
    pub(crate) async fn submit(
        &self,
        principal: Principal,
        mut submission: Submission,
        origin: RequestOrigin,
    ) -> Result<String, Problem> {
        check_submission(&mut submission)?;
        let queue = self.queues.resolve(principal, &submission.queue).await?;
        let item = forwarded(principal, &queue, submission, origin);
        let (view, first) = self.hand_over(&queue, item.clone()).await?;
        let verdict = match first {
            Err(failure) if failure.is_harmless() => {
                self.cluster.newer_than(&view, PATIENCE).await;
                self.hand_over(&queue, item).await?.1
            }
            other => other,
        };
        match verdict.map_err(|failure| failure.of_submission())?.verdict {
            Some(Verdict::ExecutionId(id)) => Ok(id),
            Some(Verdict::Refusal(refusal)) => Err(refusal.into()),
            None => Err(no_verdict()),
        }
    }

    async fn hand_over(
        &self,
        queue: &Queue,
        mut item: ForwardedSubmission,
    ) -> Result<(Arc<View>, Result<SubmitVerdict, CallFailure>), Problem> {
        let view = self.cluster.now();
        let lane = queue.next_lane(&view);
        item.lane = lane.0.into();
        let owner = view.owner(lane).ok_or_else(|| no_owner(&view, lane))?;
        let verdict = owner.submit_single(item).await;
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
        let view = self.cluster.now();
        let mut batch = Batch::new(submissions.len());
        let mut queue_before = None;
        for (index, (submission, origin)) in submissions.into_iter().zip(origins).enumerate() {
            match self
                .prepare(principal, submission, origin, &mut queue_before)
                .await
            {
                Ok((item, queue)) => batch.assign(index, item, &queue, &view),
                Err(problem) => batch.refuse(index, problem),
            }
        }
        Ok(batch.send().await)
    }

    /// Checks one item and finds its queue, which often is that of the item before.
    async fn prepare(
        &self,
        principal: Principal,
        mut submission: Submission,
        origin: RequestOrigin,
        queue_before: &mut Option<(String, Arc<Queue>)>,
    ) -> Result<(ForwardedSubmission, Arc<Queue>), Problem> {
        check_submission(&mut submission)?;
        let queue = match queue_before {
            Some((name, queue)) if *name == submission.queue => Arc::clone(queue),
            _ => {
                let queue = self.queues.resolve(principal, &submission.queue).await?;
                *queue_before = Some((submission.queue.clone(), Arc::clone(&queue)));
                queue
            }
        };
        Ok((forwarded(principal, &queue, submission, origin), queue))
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

/// A batch on its way: verdicts by place, and what goes to each owner.
struct Batch {
    verdicts: Vec<SubmitVerdict>,
    parts: Vec<Part>,
}

/// What of a batch goes to one owner.
struct Part {
    owner: Arc<SchedulerLink>,
    places: Vec<usize>,
    items: Vec<ForwardedSubmission>,
}

impl Batch {
    fn new(items: usize) -> Self {
        Self {
            verdicts: vec![SubmitVerdict::default(); items],
            parts: Vec::new(),
        }
    }

    fn refuse(&mut self, place: usize, problem: Problem) {
        self.verdicts[place].verdict = Some(Verdict::Refusal(problem.into_refusal()));
    }

    fn assign(&mut self, place: usize, mut item: ForwardedSubmission, queue: &Queue, view: &View) {
        let lane = queue.next_lane(view);
        item.lane = lane.0.into();
        match view.owner(lane) {
            Some(owner) => self.part_of(owner).add(place, item),
            None => self.refuse(place, no_owner(view, lane)),
        }
    }

    /// There are as many parts as schedulers: few.
    fn part_of(&mut self, owner: &Arc<SchedulerLink>) -> &mut Part {
        let known = self
            .parts
            .iter()
            .position(|part| Arc::ptr_eq(&part.owner, owner));
        let index = known.unwrap_or_else(|| {
            let room = self.verdicts.len();
            let (places, items) = (Vec::with_capacity(room), Vec::with_capacity(room));
            self.parts.push(Part {
                owner: Arc::clone(owner),
                places,
                items,
            });
            self.parts.len() - 1
        });
        &mut self.parts[index]
    }

    /// Sends all parts at the same time and puts the verdicts into their places.
    async fn send(self) -> Vec<SubmitVerdict> {
        let mut verdicts = self.verdicts;
        for (places, answer) in join_all(self.parts.into_iter().map(Part::send)).await {
            match answer {
                Ok(answered) => places
                    .into_iter()
                    .zip(answered)
                    .for_each(|(place, verdict)| {
                        verdicts[place] = verdict;
                    }),
                Err(failure) => {
                    let refusal = failure.of_submission().into_refusal();
                    for place in places {
                        verdicts[place].verdict = Some(Verdict::Refusal(refusal.clone()));
                    }
                }
            }
        }
        verdicts
    }
}

impl Part {
    fn add(&mut self, place: usize, item: ForwardedSubmission) {
        self.places.push(place);
        self.items.push(item);
    }

    async fn send(self) -> (Vec<usize>, Result<Vec<SubmitVerdict>, CallFailure>) {
        (self.places, self.owner.submit(self.items).await)
    }
}
