//! Who the schedulers are, and which of them owns which lane: as the last of them said that could be
//! asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::LaneId;
use tokio::sync::watch;

use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, Reach, SchedulerLink, ServiceToken};

/// How many schedulers are asked in turn what any of them can answer.
const ASKED_IN_TURN: usize = 3;

/// One state of the cluster.
#[derive(Default)]
pub(crate) struct View {
    /// As the cluster lists them; `None` where the address is none.
    links: Vec<Option<Arc<SchedulerLink>>>,
    /// For each lane 1 + the index of its owner; 0: none.
    lane_owners: Vec<u32>,
}

impl View {
    /// The view that `message` is; links that `before` has already are kept, with what is on its
    /// way in them.
    pub(crate) fn new(
        message: proto::v1::ClusterView,
        before: &Self,
        token: &ServiceToken,
    ) -> Self {
        let mut known: HashMap<(&str, &str), &Arc<SchedulerLink>> = HashMap::new();
        for link in before.links.iter().flatten() {
            known.insert((link.scheduler_id(), link.address()), link);
        }
        let links = message.schedulers.iter().map(|listed| {
            let (id, address) = (listed.scheduler_id.as_str(), listed.address.as_str());
            if let Some(link) = known.get(&(id, address)) {
                return Some(Arc::clone(link));
            }
            SchedulerLink::new(id, address, token.clone())
                .inspect_err(|error| {
                    let event = "scheduler_address_illegal";
                    tracing::warn!(event, scheduler_id = id, address, %error, "left out");
                })
                .ok()
        });
        Self {
            links: links.collect(),
            lane_owners: message.lane_owners,
        }
    }

    /// Whether there is anybody to speak with.
    pub(crate) fn has_schedulers(&self) -> bool {
        self.links.iter().any(Option::is_some)
    }

    /// How many schedulers there are.
    pub(crate) fn schedulers(&self) -> usize {
        self.links.iter().flatten().count()
    }

    /// The addresses of all schedulers.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.links
            .iter()
            .flatten()
            .map(|link| link.address().to_owned())
            .collect()
    }

    /// The owner of `lane`.
    pub(crate) fn owner(&self, lane: LaneId) -> Option<&Arc<SchedulerLink>> {
        let number = *self.lane_owners.get(usize::from(lane.0))?;
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.links.get(index)?.as_ref()
    }

    /// Who takes what is handed in for `lane`: its owner; where it has none, anybody, who leaves it in the lane's
    /// inbox for the next one.
    pub(crate) fn taker(&self, lane: LaneId) -> Option<&Arc<SchedulerLink>> {
        let anybody = || {
            let mut links = self.links.iter().flatten();
            links
                .clone()
                .find(|link| link.is_reachable())
                .or_else(|| links.next())
        };
        self.owner(lane).or_else(anybody)
    }

    /// Whether `lane` has an owner that can be reached, as far as is known.
    pub(crate) fn is_reachable(&self, lane: LaneId) -> bool {
        self.owner(lane).is_some_and(|owner| owner.is_reachable())
    }

    /// Whether the cluster has a lane of this number at all.
    pub(crate) fn has_lane(&self, lane: LaneId) -> bool {
        usize::from(lane.0) < self.lane_owners.len()
    }
}

/// The latest view, to be read by everybody.
#[derive(Clone)]
pub(crate) struct ClusterView {
    views: watch::Receiver<Arc<View>>,
    turn: Arc<AtomicUsize>,
}

impl ClusterView {
    pub(crate) fn new(views: watch::Receiver<Arc<View>>) -> Self {
        Self {
            views,
            turn: Arc::default(),
        }
    }

    /// The view as it is now.
    pub(crate) fn now(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// Waits until the view is another one than `seen`, at most `patience`.
    pub(crate) async fn newer_than(&self, seen: &Arc<View>, patience: Duration) {
        let mut views = self.views.clone();
        let changed = views.wait_for(|view| !Arc::ptr_eq(view, seen));
        // Out of patience, or shutting down: the caller looks at what there is either way.
        let _ = tokio::time::timeout(patience, changed).await;
    }

    /// Asks one scheduler after the other what any of them can answer, until one does.
    ///
    /// # Errors
    /// The last one's failure, or an answer that asking others wouldn't change.
    pub(crate) async fn ask_any<T, F>(
        &self,
        ask: impl Fn(Arc<SchedulerLink>) -> F,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, CallFailure>>,
    {
        let view = self.now();
        let links: Vec<_> = view.links.iter().flatten().collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = no_scheduler();
        for step in 0..links.len().min(ASKED_IN_TURN) {
            let link = links[(first + step) % links.len()];
            match ask(Arc::clone(link)).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failure = failed.of_repeatable(),
            }
            if failure.retry_after.is_none() {
                break;
            }
        }
        Err(failure)
    }

    /// Asks all schedulers at once what each knows a part of; those that give no answer have no part.
    ///
    /// # Errors
    /// Nobody answered: the failure of one, that of a scheduler that did answer rather than of one that didn't.
    pub(crate) async fn ask_all<T, F>(
        &self,
        ask: impl Fn(Arc<SchedulerLink>) -> F,
    ) -> Result<Vec<T>, Problem>
    where
        F: Future<Output = Result<T, CallFailure>>,
    {
        let view = self.now();
        let asked = view
            .links
            .iter()
            .flatten()
            .map(|link| ask(Arc::clone(link)));
        let (answers, failures): (Vec<_>, Vec<_>) = futures::future::join_all(asked)
            .await
            .into_iter()
            .partition(Result::is_ok);
        if !answers.is_empty() {
            return Ok(answers.into_iter().flatten().collect());
        }
        let mut failures: Vec<CallFailure> = failures.into_iter().filter_map(Result::err).collect();
        failures.sort_by_key(|failure| failure.reach != Reach::Answered);
        Err(failures
            .first()
            .map_or_else(no_scheduler, CallFailure::of_repeatable))
    }
}

/// No scheduler is known.
fn no_scheduler() -> Problem {
    Problem::try_again(
        "NO_SCHEDULER",
        "no scheduler can be reached just now; try again in a second",
    )
}

/// Nobody owns `lane`.
pub(crate) fn no_owner(view: &View, lane: LaneId) -> Problem {
    if !view.has_schedulers() {
        return no_scheduler();
    }
    Problem::try_again(
        "NO_OWNER",
        format!("lane {lane} has no owner just now; try again in a second"),
    )
}

#[cfg(test)]
mod tests {
    use proto::v1::SchedulerAddress;

    use super::*;

    fn message(ports: &[u16], lane_owners: &[u32]) -> proto::v1::ClusterView {
        let schedulers = ports.iter().map(|port| SchedulerAddress {
            scheduler_id: format!("s{port}"),
            address: format!("http://127.0.0.1:{port}"),
        });
        proto::v1::ClusterView {
            schedulers: schedulers.collect(),
            lane_owners: lane_owners.to_vec(),
            lane_epochs: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_lane_leads_to_its_owner_or_to_nobody() {
        let token = ServiceToken::new("t").unwrap();
        let view = View::new(message(&[1, 2], &[2, 0, 1, 9]), &View::default(), &token);
        let owner = |lane| view.owner(LaneId(lane)).map(|link| link.scheduler_id());
        assert_eq!(
            [0, 1, 2, 3, 4].map(owner),
            [Some("s2"), None, Some("s1"), None, None]
        );
        assert!(view.has_lane(LaneId(3)) && !view.has_lane(LaneId(4)));
    }

    #[tokio::test]
    async fn what_is_for_a_lane_without_an_owner_goes_to_anybody() {
        let token = ServiceToken::new("t").unwrap();
        let view = View::new(message(&[1, 2], &[0, 2]), &View::default(), &token);
        let [one, two] = [0, 1].map(|place| view.links[place].as_ref().unwrap());
        assert!(Arc::ptr_eq(view.taker(LaneId(1)).unwrap(), two));
        assert!(Arc::ptr_eq(view.taker(LaneId(0)).unwrap(), one));
        assert!(View::default().taker(LaneId(0)).is_none());
    }

    #[tokio::test]
    async fn a_scheduler_that_stays_keeps_its_link() {
        let token = ServiceToken::new("t").unwrap();
        let before = View::new(message(&[1, 2], &[1]), &View::default(), &token);
        let after = View::new(message(&[3, 2], &[2]), &before, &token);
        let kept = after.owner(LaneId(0)).unwrap();
        assert!(Arc::ptr_eq(kept, before.links[1].as_ref().unwrap()));
    }
}
