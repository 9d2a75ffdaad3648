use domain::{ExecutionId, ExecutionState};
use futures::Stream;
use proto::internal::v1::{WatchExecutionsRequest, WatchExecutionsResponse};
use proto::v1::WatchExecutionsResponse as ClientChange;
use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::describe::{Standing, standing};
use super::reading::no_owner;
use super::scheduler_service::Internal;
use crate::group::{Change, Input, Watched};

type Changes = Result<WatchExecutionsResponse, Status>;

impl Internal {
    /// Where each execution stands, then every change, until all are final or a lane moves away.
    pub(super) async fn watch(
        &self,
        request: WatchExecutionsRequest,
    ) -> Result<impl Stream<Item = Changes> + use<>, Status> {
        let (sender, mut changes) = mpsc::unbounded_channel();
        let mut beginnings = Vec::with_capacity(request.execution_ids.len());
        let mut open: FxHashSet<ExecutionId> = FxHashSet::default();
        for bytes in &request.execution_ids {
            let id = self.genuine(bytes)?;
            let standing = self.watch_one(id, request.tenant, sender.clone()).await?;
            if !standing.state.is_final() {
                open.insert(id);
            }
            beginnings.push(Ok(beginning(id, standing)));
        }
        drop(sender);
        Ok(async_stream(beginnings, move |out| async move {
            while !open.is_empty() {
                let change = match changes.recv().await {
                    Some(Watched::Change(change)) => change,
                    Some(Watched::Moved(id)) => {
                        let _ = out.send(Err(no_owner(id)));
                        return;
                    }
                    None => return,
                };
                if change.state.is_final() {
                    open.remove(&change.id);
                }
                if out.send(Ok(told(&change))).is_err() {
                    return;
                }
            }
        }))
    }

    /// Watches first and reads afterwards: nothing falls between.
    async fn watch_one(
        &self,
        id: ExecutionId,
        tenant: u32,
        watcher: mpsc::UnboundedSender<Watched>,
    ) -> Result<Standing, Status> {
        let (reply, memory) = oneshot::channel();
        self.groups
            .of(id.lane())
            .send(Input::Watch(id, watcher, reply))
            .await;
        let memory = memory.await.ok().flatten().ok_or_else(|| no_owner(id))?;
        let stored = self.stored(id, tenant).await?;
        Ok(standing(&stored, &memory, self.shared.clock.now()))
    }
}

/// What was there at the beginning, then what `produce` sends.
fn async_stream<F, Fut>(beginnings: Vec<Changes>, produce: F) -> impl Stream<Item = Changes>
where
    F: FnOnce(mpsc::UnboundedSender<Changes>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    for change in beginnings {
        let _ = sender.send(change);
    }
    tokio::spawn(produce(sender));
    tokio_stream::wrappers::UnboundedReceiverStream::new(receiver)
}

fn beginning(id: ExecutionId, standing: Standing) -> WatchExecutionsResponse {
    let Standing {
        state,
        reason,
        attempt,
        fence,
        worker,
        ..
    } = standing;
    response(id, (state, reason), attempt, fence, worker)
}

fn told(change: &Change) -> WatchExecutionsResponse {
    let standing = (change.state, change.reason as i32);
    response(
        change.id,
        standing,
        change.attempt,
        change.fence,
        change.worker.to_string(),
    )
}

fn response(
    id: ExecutionId,
    (state, reason): (ExecutionState, i32),
    attempt: u16,
    fence: u64,
    worker_id: String,
) -> WatchExecutionsResponse {
    let change = ClientChange {
        execution_id: id.to_string(),
        state: state as i32,
        reason,
        attempt: u32::from(attempt),
        fence,
        worker_id,
    };
    WatchExecutionsResponse {
        change: Some(change),
    }
}
