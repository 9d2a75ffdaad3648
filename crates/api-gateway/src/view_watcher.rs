//! Keeps the cluster's view: follows one scheduler, and the next one when that is lost.

use std::sync::Arc;
use std::time::Duration;

use proto::internal::v1::{WatchClusterRequest, WatchClusterResponse};
use rand::seq::SliceRandom as _;
use service::Recurring;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::cluster_view::View;
use crate::scheduler_link::{self, SchedulerClient, ServiceToken};
use crate::seeds::Seed;

/// A scheduler that doesn't say its view within this time is left for the next one.
const FIRST_VIEW: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A scheduler's views: its client, the first view, and those that follow.
type Opened = (
    SchedulerClient,
    WatchClusterResponse,
    Streaming<WatchClusterResponse>,
);

/// Whether the view is kept up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sight {
    /// No scheduler was found yet.
    Never,
    /// A scheduler is being followed.
    Clear,
    /// Nobody is, since then.
    LostAt(Instant),
    /// Every scheduler refuses this gateway's token.
    Refused,
}

/// Whether a scheduler took the caller for none of the installation's own.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied
    )
}

/// Follows the cluster and tells everybody.
pub(crate) struct ViewWatcher {
    seeds: Vec<Seed>,
    token: ServiceToken,
    views: watch::Sender<Arc<View>>,
    sight: watch::Sender<Sight>,
    /// Nobody can be reached.
    blindness: Recurring,
}

impl ViewWatcher {
    pub(crate) fn new(seeds: Vec<Seed>, token: ServiceToken) -> Self {
        let views = watch::Sender::new(Arc::default());
        let sight = watch::Sender::new(Sight::Never);
        Self {
            seeds,
            token,
            views,
            sight,
            blindness: Recurring::default(),
        }
    }

    /// The views, from now on.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    /// Whether they are up to date, from now on.
    pub(crate) fn sight(&self) -> watch::Receiver<Sight> {
        self.sight.subscribe()
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            if self.follow_somebody().await {
                backoff.reset();
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    /// Tries each scheduler in turn until one can be followed, and follows it to its end. Says
    /// whether there was one.
    async fn follow_somebody(&mut self) -> bool {
        let candidates = self.candidates().await;
        let (mut refusals, asked) = (0, candidates.len());
        let mut last_error = "no seed has an address".to_owned();
        for address in candidates {
            let (client, first, stream) = match self.open(&address).await {
                Ok(opened) => opened,
                Err(status) => {
                    last_error = format!("{address}: {}", status.message());
                    refusals += usize::from(is_refusal(&status));
                    tracing::debug!(event = "scheduler_unreachable", address, %status, "next one");
                    continue;
                }
            };
            self.follow(&address, first, stream).await;
            // Not before: a connection whose client is gone and that has one stream counts as idle, and
            // isn't pinged; a scheduler that stopped answering would be followed for ever.
            drop(client);
            return true;
        }
        match refusals == asked && asked > 0 {
            true => self.say_refused(&last_error),
            false => self.say_unreachable(asked, &last_error),
        }
        false
    }

    /// Known schedulers first, then the seeds, each in random order: gateways spread themselves.
    async fn candidates(&self) -> Vec<String> {
        let mut known = self.views.borrow().addresses();
        let mut resolved = Vec::new();
        for seed in &self.seeds {
            resolved.extend(seed.addresses().await);
        }
        resolved.retain(|address| !known.contains(address));
        known.shuffle(&mut rand::rng());
        resolved.shuffle(&mut rand::rng());
        known.extend(resolved);
        known
    }

    async fn open(&self, address: &str) -> Result<Opened, Status> {
        let invalid = |error: anyhow::Error| Status::invalid_argument(error.to_string());
        let mut client = scheduler_link::client(address).map_err(invalid)?;
        let request = self.token.sign(WatchClusterRequest {});
        let opening = async {
            let answer = client.watch_cluster(request).await?;
            let mut stream = answer.into_inner();
            let first = stream.message().await?;
            first
                .map(|first| (first, stream))
                .ok_or_else(|| Status::unavailable("said nothing"))
        };
        let late = |_| Status::deadline_exceeded("said no view in time");
        let (first, stream) = timeout(FIRST_VIEW, opening).await.map_err(late)??;
        Ok((client, first, stream))
    }

    async fn follow(
        &mut self,
        address: &str,
        first: WatchClusterResponse,
        mut stream: Streaming<WatchClusterResponse>,
    ) {
        self.take_view(first);
        self.sight.send_replace(Sight::Clear);
        self.blindness.end();
        let schedulers = self.views.borrow().schedulers();
        tracing::info!(
            event = "cluster_view_found",
            address,
            schedulers,
            "following a scheduler"
        );
        let reason = loop {
            match stream.message().await {
                Ok(Some(next)) => self.take_view(next),
                Ok(None) => break "it ended the stream".to_owned(),
                Err(status) => break status.message().to_owned(),
            }
        };
        self.sight.send_replace(Sight::LostAt(Instant::now()));
        tracing::warn!(
            event = "cluster_view_lost",
            address,
            reason,
            "looking for another scheduler"
        );
    }

    fn take_view(&self, message: WatchClusterResponse) {
        let message = message.view.unwrap_or_default();
        let view = View::new(message, &self.views.borrow(), &self.token);
        tracing::debug!(
            event = "cluster_view",
            schedulers = view.schedulers(),
            "new view"
        );
        self.views.send_replace(Arc::new(view));
    }

    fn say_refused(&mut self, last_error: &str) {
        if self.sight.send_replace(Sight::Refused) != Sight::Refused {
            tracing::error!(
                event = "service_token_refused",
                last_error,
                "every scheduler refuses this gateway: give all the same SERVICE_TOKEN"
            );
        }
    }

    fn say_unreachable(&mut self, tried: usize, last_error: &str) {
        if self.blindness.is_news("no scheduler") {
            let event = "no_scheduler_reachable";
            let seeds = self.seeds.iter().map(Seed::to_string);
            let seeds = seeds.collect::<Vec<_>>().join(",");
            tracing::warn!(
                event,
                tried,
                seeds,
                last_error,
                "no scheduler can be reached, neither those that were known nor SCHEDULERS; trying on"
            );
        }
    }
}
