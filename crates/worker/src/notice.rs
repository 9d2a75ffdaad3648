use std::sync::Arc;
use std::time::Instant;

use domain::ExecutionId;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::context::Shared;
use crate::journal::Journal;

/// What the link has to say to the log. It says it through a channel, because writing a line can
/// block, and the link must not.
pub(crate) enum Notice {
    /// A task came.
    Received(Arc<Shared>),
    /// A task came whose execution id is none.
    NonsenseTask { fence: u64 },
    /// A scheduler welcomed the worker.
    Registered { scheduler_id: String },
    /// A scheduler answered a heartbeat.
    Heartbeat { load: u32 },
    /// The stream with a scheduler broke.
    StreamLost { address: String, reason: String },
    /// No stream with a scheduler came to stand.
    Unreachable { address: String, reason: String },
    /// The lease under which an execution was held ran out.
    RightLost {
        execution_id: ExecutionId,
        fence: u64,
    },
    /// A task came from a scheduler whose lane has another owner by now.
    TooLate {
        execution_id: ExecutionId,
        fence: u64,
    },
    /// A checkpoint is durable.
    CheckpointSaved { shared: Arc<Shared>, number: u64 },
    /// The shutdown has begun.
    Draining { running: u32 },
    /// The worker has left.
    Left { unsettled: usize },
}

/// Who the notices are about.
pub(crate) struct Notifier {
    pub(crate) worker_id: String,
    pub(crate) pool: String,
    pub(crate) slots: u32,
    pub(crate) started: Instant,
}

impl Notifier {
    /// Logs notices until the link is gone.
    pub(crate) async fn log_all(
        self,
        journal: &Journal,
        mut notices: mpsc::UnboundedReceiver<Notice>,
    ) {
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Received(attempt) => journal.received(&attempt),
                Notice::CheckpointSaved { shared, number } => journal.saved(&shared, number),
                other => self.log(other),
            }
        }
    }

    fn log(&self, notice: Notice) {
        let (worker_id, pool) = (&self.worker_id, &self.pool);
        match notice {
            Notice::Registered { scheduler_id } => info!(
                event = "worker_registered",
                worker_id,
                pool,
                capacity = self.slots,
                scheduler_id,
                "registered with a scheduler"
            ),
            Notice::Heartbeat { load } => debug!(
                event = "worker_heartbeat",
                worker_id,
                current_load = load,
                capacity = self.slots,
                uptime_seconds = self.started.elapsed().as_secs_f64(),
                "a heartbeat was answered"
            ),
            Notice::Draining { running } => info!(
                event = "worker_draining",
                worker_id,
                current_load = running,
                "taking nothing new; running tasks may end within the grace"
            ),
            Notice::Left { unsettled } => {
                info!(
                    event = "worker_deregistered",
                    worker_id, pool, unsettled, "the worker left"
                );
            }
            trouble => self.warn(trouble),
        }
    }

    fn warn(&self, notice: Notice) {
        let worker_id = &self.worker_id;
        match notice {
            Notice::StreamLost { address, reason } => warn!(
                event = "scheduler_lost",
                worker_id,
                address,
                error = reason,
                "the stream with a scheduler broke; connecting again"
            ),
            Notice::Unreachable { address, reason } => warn!(
                event = "scheduler_unreachable",
                worker_id,
                address,
                error = reason,
                "can't work with this scheduler; trying on. Check SCHEDULERS, and that WORKER_KEY is a key of scope worker"
            ),
            Notice::RightLost {
                execution_id,
                fence,
            } => warn!(
                event = "lease_lost",
                worker_id,
                %execution_id,
                fence,
                "the lease ran out without an answer: the task was stopped, another worker gets it"
            ),
            Notice::TooLate {
                execution_id,
                fence,
            } => warn!(
                event = "task_too_late",
                worker_id,
                %execution_id,
                fence,
                "a task came from a scheduler whose lane has another owner by now: it is not begun"
            ),
            Notice::NonsenseTask { fence } => warn!(
                event = "task_refused",
                worker_id, fence, "a task came whose execution id is not 16 bytes"
            ),
            Notice::Received(_)
            | Notice::CheckpointSaved { .. }
            | Notice::Registered { .. }
            | Notice::Heartbeat { .. }
            | Notice::Draining { .. }
            | Notice::Left { .. } => {}
        }
    }
}
