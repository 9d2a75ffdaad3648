use std::collections::VecDeque;

use domain::{ExecutionId, ExecutionState};
use futures::Stream;
use proto::internal::v1::{WatchExecutionsRequest, WatchExecutionsResponse};
use proto::v1::WatchExecutionsResponse as ClientChange;
use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::describe::{Standing, standing};
use super::reading::no_owner;
use super::scheduler_service::Internal;
use crate::group::{Change, Input, Watched};

type Changes = Result<WatchExecutionsResponse, Status>;

/// Changes on their way to a watcher that it has not read.
const UNREAD: usize = 256;

impl Internal {
    /// Where each execution stands, then every change, until all are final or a lane moves away.
    pub(super) async fn watch(
        &self,
        request: WatchExecutionsRequest,
    ) -> Result<impl Stream<Item = Changes> + use<>, Status> {
        let (sender, changes) = mpsc::unbounded_channel();
        let mut beginnings = Vec::with_capacity(request.execution_ids.len());
        let mut open: FxHashSet<ExecutionId> = FxHashSet::default();
        for bytes in &request.execution_ids {
            let id = self.genuine(bytes)?;
            let standing = self.watch_one(id, request.tenant, sender.clone()).await?;
            if !standing.state.is_final() {
                open.insert(id);
            }
            beginnings.push(beginning(id, standing));
        }
        drop(sender);
        let (out, answers) = mpsc::channel(UNREAD);
        let told = Told {
            pending: VecDeque::from(beginnings),
            open,
        };
        tokio::spawn(told.tell(changes, out));
        Ok(ReceiverStream::new(answers))
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

/// What a watcher is to be told. Of an execution that changes faster than it reads, it is told the last: so no
/// more than one change of each waits for it, however slowly it reads.
struct Told {
    pending: VecDeque<ClientChange>,
    /// Those that may change.
    open: FxHashSet<ExecutionId>,
}

impl Told {
    /// Tells what there is, until all are final, a lane moves away, or nobody listens.
    async fn tell(
        mut self,
        mut changes: mpsc::UnboundedReceiver<Watched>,
        out: mpsc::Sender<Changes>,
    ) {
        while !(self.open.is_empty() && self.pending.is_empty()) {
            tokio::select! {
                biased;
                room = out.reserve(), if !self.pending.is_empty() => {
                    let Ok(room) = room else { return };
                    let change = self.pending.pop_front();
                    room.send(Ok(WatchExecutionsResponse { change }));
                }
                change = changes.recv(), if !self.open.is_empty() => match change {
                    Some(Watched::Change(change)) => self.note(&change),
                    Some(Watched::Moved(id)) => {
                        let _ = out.send(Err(no_owner(id))).await;
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    fn note(&mut self, change: &Change) {
        if change.state.is_final() {
            self.open.remove(&change.id);
        }
        let told = told(change);
        let earlier = |it: &ClientChange| it.execution_id == told.execution_id;
        self.pending.retain(|it| !earlier(it));
        self.pending.push_back(told);
    }
}

fn beginning(id: ExecutionId, standing: Standing) -> ClientChange {
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

fn told(change: &Change) -> ClientChange {
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
) -> ClientChange {
    ClientChange {
        execution_id: id.to_string(),
        state: state as i32,
        reason,
        attempt: u32::from(attempt),
        fence,
        worker_id,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{IdKey, LaneId, Micros, Reason};

    use super::*;

    fn change(number: u64, attempt: u16, state: ExecutionState) -> Change {
        let id = ExecutionId::new(LaneId(0), number, Micros(0), &IdKey::new([1; 16]));
        let (reason, fence, worker) = (Reason::None, 1, Arc::from("w"));
        Change {
            id,
            state,
            reason,
            attempt,
            fence,
            worker,
        }
    }

    #[tokio::test]
    async fn who_reads_slowly_is_told_the_last_of_each() {
        let (sender, changes) = mpsc::unbounded_channel();
        let (out, mut answers) = mpsc::channel(1);
        let ids = [1, 2].map(|number| change(number, 1, ExecutionState::Running).id);
        for attempt in 1..=100 {
            for number in [1, 2] {
                let state = match attempt {
                    100 => ExecutionState::Failed,
                    _ => ExecutionState::Running,
                };
                let change = change(number, attempt, state);
                sender.send(Watched::Change(change)).ok();
            }
        }
        let told = Told {
            pending: VecDeque::new(),
            open: ids.into_iter().collect(),
        };
        let telling = tokio::spawn(told.tell(changes, out));
        // On this one thread it takes in all that has been said before anything is read.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut told = Vec::new();
        while let Some(Ok(answer)) = answers.recv().await {
            told.push(answer.change.unwrap_or_default());
        }
        telling.await.expect("it ends by itself");
        assert!(told.len() <= 4, "{told:?}");
        for id in ids {
            let mut of_it = told.iter().filter(|it| it.execution_id == id.to_string());
            let last = of_it.next_back().expect("it is told of");
            assert_eq!(
                (last.attempt, last.state()),
                (100, proto::v1::ExecutionState::Failed)
            );
        }
    }
}
