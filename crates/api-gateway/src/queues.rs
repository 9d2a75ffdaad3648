//! What a queue's name stands for: its number and its lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::LaneId;
use proto::internal::v1::{ForwardedSubmission, ResolveQueueRequest, ResolveQueueResponse};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::cluster_view::{ClusterView, View};
use crate::fresh::Fresh;
use crate::keys::Principal;
use crate::problem::Problem;

/// How old what is known of a queue may be.
const QUEUE_LIFETIME: Duration = Duration::from_secs(5);
/// The same for one that isn't there: people create a queue and use it at once.
const MISSING_QUEUE_LIFETIME: Duration = Duration::from_secs(1);
const QUEUES_REMEMBERED: usize = 10_000;

/// A queue, and whose turn among its lanes it is.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Its number.
    pub(crate) number: u32,
    lanes: Vec<LaneId>,
    turn: AtomicUsize,
}

impl Queue {
    /// The lane for a submission: each in turn, but one key's always the same, so that its owner has the
    /// key at hand. Those whose owner is missing or can't be reached are passed by while another lane's
    /// can: a key that comes to another owner is found there too, only later.
    pub(crate) fn lane_for(&self, view: &View, item: &ForwardedSubmission) -> LaneId {
        let submission = item.submission.as_ref();
        let key = submission.map_or("", |submission| &submission.idempotency_key);
        let turn = match key {
            "" => self.turn.fetch_add(1, Ordering::Relaxed),
            key => key_number(key),
        };
        let lane = |step: usize| self.lanes[(turn.wrapping_add(step)) % self.lanes.len()];
        let good = (0..self.lanes.len())
            .map(lane)
            .find(|lane| view.is_reachable(*lane));
        let owned = || {
            (0..self.lanes.len())
                .map(lane)
                .find(|lane| view.owner(*lane).is_some())
        };
        good.or_else(owned).unwrap_or_else(|| lane(0))
    }

    /// Whether one of its lanes has an owner that can be reached, as far as is known.
    pub(crate) fn is_reachable(&self, view: &View) -> bool {
        self.lanes.iter().any(|lane| view.is_reachable(*lane))
    }
}

/// A number of the key, the same in every gateway.
fn key_number(key: &str) -> usize {
    let digest: [u8; 32] = Sha256::digest(key).into();
    usize::from(u16::from_be_bytes([digest[0], digest[1]]))
}

/// All queues that were asked for lately.
pub(crate) struct Queues {
    cluster: ClusterView,
    known: Fresh<(u32, String), Option<Arc<Queue>>>,
}

impl Queues {
    pub(crate) fn new(cluster: ClusterView) -> Self {
        let known = Fresh::new(
            QUEUES_REMEMBERED,
            |queue: &Option<Arc<Queue>>| match queue {
                Some(_) => QUEUE_LIFETIME,
                None => MISSING_QUEUE_LIFETIME,
            },
        );
        Self { cluster, known }
    }

    /// The queue of this name.
    ///
    /// # Errors
    /// `NOT_FOUND` if the tenant has none, `UNAVAILABLE` if nobody can be asked.
    pub(crate) async fn resolve(
        &self,
        principal: Principal,
        name: &str,
    ) -> Result<Arc<Queue>, Problem> {
        let ask = |(tenant, queue): &(u32, String)| {
            let request = ResolveQueueRequest {
                tenant: *tenant,
                queue: queue.clone(),
            };
            let cluster = self.cluster.clone();
            async move { ask_for_queue(&cluster, request).await }
        };
        let queue = self
            .known
            .get((principal.tenant, name.to_owned()), ask)
            .await?;
        queue.ok_or_else(|| Problem {
            field: "queue".into(),
            ..Problem::new(
                Code::NotFound,
                "QUEUE_NOT_FOUND",
                format!(
                    "there is no queue {name:?}: create it, or leave the field empty for default"
                ),
            )
        })
    }
}

async fn ask_for_queue(
    cluster: &ClusterView,
    request: ResolveQueueRequest,
) -> Result<Option<Arc<Queue>>, Problem> {
    let answer = cluster.ask_any(|link| {
        let request = link.read(request.clone());
        async move {
            let answer = link.client().resolve_queue(request).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| link.failure(&status))
        }
    });
    match answer.await {
        Ok(answer) => Queue::new(&answer).map(|queue| Some(Arc::new(queue))),
        Err(problem) if problem.code == Code::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

impl Queue {
    fn new(answer: &ResolveQueueResponse) -> Result<Self, Problem> {
        let lanes: Result<Vec<_>, _> = answer
            .lanes
            .iter()
            .map(|lane| u16::try_from(*lane).map(LaneId))
            .collect();
        let lanes = lanes
            .ok()
            .filter(|lanes| !lanes.is_empty())
            .ok_or_else(|| {
                let message = format!("queue {} came without legal lanes", answer.queue);
                Problem::new(Code::Internal, "INTERNAL", message)
            })?;
        // Begins anywhere: else each refresh would favour the first lane.
        Ok(Self {
            number: answer.queue,
            lanes,
            turn: AtomicUsize::new(rand::random_range(0..4096)),
        })
    }
}
