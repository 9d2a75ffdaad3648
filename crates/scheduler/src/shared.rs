use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::lane::{CheckpointMark, Class};
use domain::{ExecutionId, IdKey, LaneId, Micros, RetryPolicy};
use proto::v1::{ClusterView, SchedulerAddress};
use service::SpanSink;
use store::{Head, Queue, SharedStorage, WindowMap};
use tokio::sync::{Notify, watch};

use crate::catalog::Catalog;
use crate::clock::{DatabaseClock, Deadline};
use crate::group::GroupHandle;
use crate::metrics::Metrics;
use crate::session::Sessions;

/// What all parts of one scheduler share.
pub(crate) struct Shared {
    pub(crate) scheduler_id: String,
    pub(crate) database: SharedStorage,
    pub(crate) id_key: IdKey,
    pub(crate) clock: DatabaseClock,
    pub(crate) deadline: Deadline,
    /// Why leases can't be kept just now.
    pub(crate) lease_trouble: watch::Sender<Option<String>>,
    pub(crate) catalog: Catalog,
    pub(crate) sessions: Sessions,
    pub(crate) windows: watch::Sender<Arc<WindowMap>>,
    pub(crate) view: watch::Sender<Arc<ClusterView>>,
    /// Another scheduler has given lanes up.
    pub(crate) lanes_freed: Notify,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) spans: SpanSink,
    pub(crate) worker_lease: Duration,
    pub(crate) due_horizon: Duration,
    /// How many runs of what waits each lane group keeps in memory.
    pub(crate) waiting_share: usize,
    /// Sees every lane after every row.
    #[cfg(test)]
    pub(crate) witness: Option<crate::simulation::Witness>,
}

/// The lane groups of a scheduler: lane n is the group's n modulo their number.
#[derive(Clone)]
pub(crate) struct Groups(pub(crate) Arc<[GroupHandle]>);

impl Groups {
    pub(crate) fn of(&self, lane: LaneId) -> &GroupHandle {
        &self.0[self.place_of(lane)]
    }

    /// The place of a lane's group among them.
    pub(crate) fn place_of(&self, lane: LaneId) -> usize {
        usize::from(lane.0) % self.0.len()
    }
}

/// What is to be done, with all that its number stands for.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) head: Arc<Head>,
    pub(crate) tenant: Arc<str>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) job_type: Arc<str>,
    pub(crate) policy: RetryPolicy,
    /// When somebody had it run again. Known to who did it, and wherever its policy limits its total time.
    pub(crate) reopened: Option<Micros>,
}

impl Work {
    /// The same as it is at a time: what has come due while it waited for its turn is due at once, and its home is no
    /// window that may be gone meanwhile.
    pub(crate) fn as_of(self: &Arc<Self>, at: Micros) -> Arc<Self> {
        if self.head.due.is_none_or(|due| due > at) {
            return Arc::clone(self);
        }
        let head = Head {
            due: None,
            ..Head::clone(&self.head)
        };
        let head = Arc::new(head);
        Arc::new(Self {
            head,
            ..Self::clone(self)
        })
    }
}

/// An execution that is known whole.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: ExecutionId,
    pub(crate) work: Arc<Work>,
    /// What it goes on from. Of one that runs, what its attempt began with.
    pub(crate) saved: Option<Arc<SavedState>>,
}

/// What an attempt saved for the next.
#[derive(Debug)]
pub(crate) struct SavedState {
    pub(crate) mark: CheckpointMark,
    pub(crate) state: Bytes,
}

impl Known {
    /// Which checkpoint it is that it goes on from.
    pub(crate) fn saved_mark(&self) -> Option<CheckpointMark> {
        self.saved.as_ref().map(|saved| saved.mark)
    }

    /// What it takes in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.work.bytes() + self.saved.as_ref().map_or(0, |saved| saved.state.len())
    }

    /// When its total time is over, if it has any.
    pub(crate) fn expires(&self) -> Option<Micros> {
        let Work {
            policy, reopened, ..
        } = &*self.work;
        Some(reopened.unwrap_or(self.id.home_time()).plus(policy.total?))
    }

    /// How much of its total time is left at `at`.
    pub(crate) fn left(&self, at: Micros) -> Option<Duration> {
        self.expires().map(|expires| expires.since(at))
    }

    /// How long an attempt that is claimed at `at` may run.
    pub(crate) fn timeout(&self, at: Micros) -> Duration {
        let timeout = self.work.head.timeout;
        self.left(at).map_or(timeout, |left| left.min(timeout))
    }
}

impl Work {
    /// The line it waits in.
    pub(crate) fn class(&self) -> Class {
        let head = &self.head;
        let (tenant, queue, priority, job_type) =
            (head.tenant, head.queue, head.priority, head.job_type);
        Class {
            tenant,
            queue,
            priority,
            job_type,
            suspect: false,
        }
    }

    /// Whether its trace is recorded.
    pub(crate) fn is_sampled(&self) -> bool {
        self.head.trace.is_some_and(|trace| trace[24] & 1 == 1)
    }

    /// What it takes in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let head = &self.head;
        let pairs = head
            .labels
            .iter()
            .chain(&head.headers)
            .map(|(k, v)| 64 + k.len() + v.len());
        512 + head.payload.len() + pairs.sum::<usize>()
    }
}

impl Shared {
    /// What a view calls this scheduler where it tells of owners.
    pub(crate) fn place_in(&self, view: &ClusterView) -> Option<u32> {
        let is_own = |scheduler: &SchedulerAddress| scheduler.scheduler_id == self.scheduler_id;
        let place = view.schedulers.iter().position(is_own)?;
        u32::try_from(place + 1).ok()
    }

    /// Makes a view say of those lanes of this scheduler that are meant that nobody owns them. Says whether it
    /// said otherwise before.
    pub(crate) fn disown(&self, view: &mut ClusterView, is_meant: impl Fn(usize) -> bool) -> bool {
        let Some(own) = self.place_in(view) else {
            return false;
        };
        let mut has_changed = false;
        for (place, owner) in view.lane_owners.iter_mut().enumerate() {
            if *owner == own && is_meant(place) {
                *owner = 0;
                has_changed = true;
            }
        }
        has_changed
    }

    /// Shows a lane to whoever watches this scheduler in a test.
    #[cfg(test)]
    pub(crate) fn testify(
        &self,
        lane: &domain::lane::Lane,
        applied: &Result<(), domain::lane::ApplyError>,
    ) {
        if let Some(witness) = &self.witness {
            assert_eq!(*applied, Ok(()));
            witness(lane);
        }
    }

    /// Fills in what a head's numbers stand for.
    pub(crate) async fn work_of(&self, head: Head) -> Result<Work, store::Error> {
        let missing = |table, number: i32| store::Error::Inconsistent {
            table,
            what: format!("number {number} is used and isn't there"),
        };
        let (tenant, queue, job_type) = (head.tenant, head.queue, head.job_type);
        let policy = head.retry_policy;
        Ok(Work {
            tenant: (self.catalog.tenant(tenant).await?)
                .ok_or_else(|| missing("tenant", tenant))?,
            queue: (self.catalog.queue(queue).await?).ok_or_else(|| missing("queue", queue))?,
            job_type: (self.catalog.job_type(job_type).await?)
                .ok_or_else(|| missing("job_type", job_type))?,
            policy: (self.catalog.policy(policy).await?).unwrap_or_else(|| {
                // The database lost it with its last changes; its number doesn't come again.
                tracing::warn!(policy, "a retry policy is gone: the default one is used");
                RetryPolicy::default()
            }),
            head: Arc::new(head),
            reopened: None,
        })
    }
}
