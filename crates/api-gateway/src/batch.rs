//! A batch of submissions: split by owner, sent to all of them at once, answered in its own order.

use std::sync::Arc;

use futures::future::join_all;
use proto::internal::v1::ForwardedSubmission;
use proto::v1::SubmitVerdict;
use proto::v1::submit_verdict::Verdict;

use crate::cluster_view::{View, no_owner};
use crate::problem::Problem;
use crate::queues::Queue;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// A batch on its way: verdicts by place, and what goes to each owner.
pub(crate) struct Batch {
    view: Arc<View>,
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
    /// A batch of so many items, whose owners `view` knows.
    pub(crate) fn new(view: Arc<View>, items: usize) -> Self {
        Self {
            view,
            verdicts: vec![SubmitVerdict::default(); items],
            parts: Vec::new(),
        }
    }

    /// The item of this place isn't sent.
    pub(crate) fn refuse(&mut self, place: usize, problem: Problem) {
        self.verdicts[place].verdict = Some(Verdict::Refusal(problem.into_refusal()));
    }

    /// The item of this place goes to one of its queue's lanes.
    pub(crate) fn assign(&mut self, place: usize, mut item: ForwardedSubmission, queue: &Queue) {
        let lane = queue.lane_for(&self.view, &item);
        item.lane = lane.0.into();
        match self.view.taker(lane).cloned() {
            Some(owner) => self.part_of(owner).add(place, item),
            None => self.refuse(place, no_owner(&self.view, lane)),
        }
    }

    /// There are as many parts as schedulers: few.
    fn part_of(&mut self, owner: Arc<SchedulerLink>) -> &mut Part {
        let known = self
            .parts
            .iter()
            .position(|part| Arc::ptr_eq(&part.owner, &owner));
        let index = known.unwrap_or_else(|| {
            let room = self.verdicts.len();
            let (places, items) = (Vec::with_capacity(room), Vec::with_capacity(room));
            self.parts.push(Part {
                owner,
                places,
                items,
            });
            self.parts.len() - 1
        });
        &mut self.parts[index]
    }

    /// Sends all parts at the same time and puts the verdicts into their places.
    pub(crate) async fn send(self) -> Vec<SubmitVerdict> {
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
        (self.places, self.owner.submit(self.items, false).await)
    }
}
