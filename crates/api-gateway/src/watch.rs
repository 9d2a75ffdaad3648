//! Following executions for a client: each owner tells of its lanes, and when one is lost, the next
//! one is asked. What the client sees of an execution only ever gets newer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::ExecutionId;
use futures::future::FutureExt as _;
use futures::stream::{self, BoxStream, SelectAll, Stream, StreamExt as _};
use proto::internal::v1::{WatchExecutionsRequest, WatchExecutionsResponse as OwnersChange};
use proto::v1::{ExecutionState, WatchExecutionsResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::cluster_view::{ClusterView, View};
use crate::keys::Principal;
use crate::owners;
use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// Changes that may wait for a slow client.
const BUFFERED: usize = 256;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The changes of `ids` until all are final, the client leaves, or the gateway shuts down.
pub(crate) fn watch_executions(
    cluster: ClusterView,
    principal: Principal,
    ids: Vec<ExecutionId>,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<WatchExecutionsResponse, Status>> + Send + 'static {
    let (client, changes) = mpsc::channel(BUFFERED);
    let asked_view = cluster.now();
    let watch = Watch {
        principal,
        open: ids.iter().map(|id| (*id, Newest::default())).collect(),
        unwatched: ids,
        parts: SelectAll::new(),
        asked_view,
        ask_at: Instant::now(),
        backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        cluster,
    };
    tokio::spawn(watch.run(client, shutdown));
    ReceiverStream::new(changes)
}

type Client = mpsc::Sender<Result<WatchExecutionsResponse, Status>>;

struct Watch {
    cluster: ClusterView,
    principal: Principal,
    /// What isn't final yet, and the newest that the client knows of it.
    open: HashMap<ExecutionId, Newest>,
    /// What no owner tells of just now.
    unwatched: Vec<ExecutionId>,
    parts: SelectAll<BoxStream<'static, Told>>,
    /// When and under which view the owners were last looked for.
    asked_view: Arc<View>,
    ask_at: Instant,
    backoff: Backoff,
}

/// What an owner's stream tells.
enum Told {
    Changed(WatchExecutionsResponse),
    /// It is over; what of these isn't final must be asked of somebody else.
    Ended {
        ids: Vec<ExecutionId>,
        failure: Option<CallFailure>,
    },
}

impl Watch {
    async fn run(mut self, client: Client, shutdown: CancellationToken) {
        let last_word = tokio::select! {
            ended = self.tell(&client) => ended.err(),
            () = client.closed() => None,
            () = shutdown.cancelled() => Some(Problem::try_again(
                "SHUTTING_DOWN",
                "this gateway is shutting down; watch again, from another one",
            )),
        };
        if let Some(problem) = last_word {
            // A client that is gone needs no last word.
            let _ = client.send(Err(problem.into_status())).await;
        }
    }

    /// Tells the client what the owners tell, until all is final.
    async fn tell(&mut self, client: &Client) -> Result<(), Problem> {
        while !self.open.is_empty() {
            self.ask_owners()?;
            let view = Arc::clone(&self.asked_view);
            let patience = self.ask_at.saturating_duration_since(Instant::now());
            let told = tokio::select! {
                Some(told) = self.parts.next() => told,
                () = self.cluster.newer_than(&view, patience), if !self.unwatched.is_empty() => {
                    continue;
                }
            };
            match told {
                Told::Changed(change) => {
                    if self.is_news(&change) && client.send(Ok(change)).await.is_err() {
                        return Ok(());
                    }
                }
                Told::Ended { ids, failure } => self.lose(ids, failure)?,
            }
        }
        Ok(())
    }

    /// Asks the owners of what nobody tells of, if it is time or the owners may be others.
    fn ask_owners(&mut self) -> Result<(), Problem> {
        let view = self.cluster.now();
        let is_time = Instant::now() >= self.ask_at || !Arc::ptr_eq(&view, &self.asked_view);
        if self.unwatched.is_empty() || !is_time {
            return Ok(());
        }
        if !Arc::ptr_eq(&view, &self.asked_view) {
            // Lanes that change hands make many views: none of them is a reason to ask the next owner later.
            self.backoff.reset();
        }
        let mut by_owner: Vec<(&Arc<SchedulerLink>, Vec<ExecutionId>)> = Vec::new();
        let mut ownerless = Vec::new();
        for id in std::mem::take(&mut self.unwatched) {
            if owners::is_foreign(&view, id) {
                return Err(owners::not_found(id));
            }
            match view.owner(id.lane()) {
                None => ownerless.push(id),
                Some(owner) => match by_owner
                    .iter_mut()
                    .find(|(known, _)| Arc::ptr_eq(known, owner))
                {
                    Some((_, ids)) => ids.push(id),
                    None => by_owner.push((owner, vec![id])),
                },
            }
        }
        for (owner, ids) in by_owner {
            self.parts
                .push(part(Arc::clone(owner), self.principal, ids));
        }
        self.unwatched = ownerless;
        self.ask_at = Instant::now() + self.backoff.wait();
        self.asked_view = view;
        Ok(())
    }

    /// Whether the change is newer than what the client knows; if so it counts as known.
    fn is_news(&mut self, change: &WatchExecutionsResponse) -> bool {
        let Ok(id) = change.execution_id.parse() else {
            return false;
        };
        let Some(newest) = self.open.get_mut(&id) else {
            return false;
        };
        let told = Newest::of(change);
        if told <= *newest {
            return false;
        }
        *newest = told;
        if told.step == Step::Final {
            self.open.remove(&id);
        }
        self.backoff.reset();
        true
    }

    fn lose(
        &mut self,
        mut ids: Vec<ExecutionId>,
        failure: Option<CallFailure>,
    ) -> Result<(), Problem> {
        if let Some(failure) = failure {
            let problem = failure.of_repeatable();
            let is_for_good = [
                Code::NotFound,
                Code::InvalidArgument,
                Code::PermissionDenied,
                Code::Unimplemented,
            ];
            if is_for_good.contains(&problem.code) {
                return Err(problem);
            }
            tracing::debug!(
                event = "watch_interrupted",
                problem = problem.message,
                "asking again"
            );
        }
        ids.retain(|id| self.open.contains_key(id));
        self.unwatched.append(&mut ids);
        self.ask_at = Instant::now() + self.backoff.wait();
        Ok(())
    }
}

/// How new a state is: the greater one came later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
struct Newest {
    fence: u64,
    step: Step,
}

/// The order of the states that one fence goes through: its time may have to come first, it is claimed,
/// it may fail, its retry may come due, and nothing comes after a final state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
enum Step {
    #[default]
    Unknown,
    Scheduled,
    Running,
    Retrying,
    Queued,
    Final,
}

impl Newest {
    fn of(change: &WatchExecutionsResponse) -> Self {
        let step = match change.state() {
            ExecutionState::Unspecified => Step::Unknown,
            ExecutionState::Scheduled => Step::Scheduled,
            ExecutionState::Running => Step::Running,
            ExecutionState::Retrying => Step::Retrying,
            ExecutionState::Queued => Step::Queued,
            ExecutionState::Succeeded
            | ExecutionState::Failed
            | ExecutionState::DeadLettered
            | ExecutionState::Cancelled => Step::Final,
        };
        Self {
            fence: change.fence,
            step,
        }
    }
}

/// What one owner tells of `ids`, and its end.
fn part(
    owner: Arc<SchedulerLink>,
    principal: Principal,
    ids: Vec<ExecutionId>,
) -> BoxStream<'static, Told> {
    let opening = open(owner, principal, ids.clone());
    opening
        .map(|opened| tell_until_end(opened, ids))
        .flatten_stream()
        .boxed()
}

type Opened = (Arc<SchedulerLink>, Streaming<OwnersChange>);

async fn open(
    owner: Arc<SchedulerLink>,
    principal: Principal,
    ids: Vec<ExecutionId>,
) -> Result<Opened, CallFailure> {
    let request = owner.request(WatchExecutionsRequest {
        tenant: principal.tenant,
        execution_ids: ids
            .iter()
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .collect(),
    });
    let mut client = owner.client();
    match timeout(OPEN_TIMEOUT, client.watch_executions(request)).await {
        Ok(Ok(answer)) => Ok((owner, answer.into_inner())),
        Ok(Err(status)) => Err(owner.failure(&status)),
        Err(_) => Err(owner.failure(&Status::unavailable("gave no answer in time"))),
    }
}

fn tell_until_end(
    opened: Result<Opened, CallFailure>,
    ids: Vec<ExecutionId>,
) -> impl Stream<Item = Told> + Send {
    stream::unfold(Some((opened, ids)), |state| async {
        let (opened, ids) = state?;
        let (owner, mut changes) = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                return Some((
                    Told::Ended {
                        ids,
                        failure: Some(failure),
                    },
                    None,
                ));
            }
        };
        match changes.message().await {
            Ok(Some(change)) => {
                let change = change.change.unwrap_or_default();
                Some((Told::Changed(change), Some((Ok((owner, changes)), ids))))
            }
            Ok(None) => Some((Told::Ended { ids, failure: None }, None)),
            Err(status) => {
                let failure = Some(owner.failure(&status));
                Some((Told::Ended { ids, failure }, None))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(fence: u64, state: ExecutionState) -> Newest {
        let mut change = WatchExecutionsResponse {
            fence,
            ..Default::default()
        };
        change.set_state(state);
        Newest::of(&change)
    }

    #[test]
    fn states_are_ordered_as_executions_go_through_them() {
        let story = [
            told(0, ExecutionState::Scheduled),
            told(0, ExecutionState::Queued),
            told(7, ExecutionState::Running),
            told(7, ExecutionState::Retrying),
            told(7, ExecutionState::Queued),
            told(9, ExecutionState::Running),
            told(9, ExecutionState::Cancelled),
        ];
        assert!(
            story.is_sorted_by(|before, after| before < after),
            "{story:?}"
        );
        assert!(story[0] > Newest::default());
    }
}
