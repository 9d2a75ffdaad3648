use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tracing::{debug, error, info, warn};

use crate::context::Shared;
use crate::outcome::{Outcome, Status};
use crate::task::Task;

/// Executions a second whose lines are all logged.
const LIMIT: u32 = 1_000;

/// Decides which executions are logged however they end. Beyond the limit only failures and kept
/// traces are: reading a line for each of 100 000 tasks a second helps nobody, and costs more than
/// the tasks.
pub(crate) struct LogBudget {
    second: Instant,
    spent: u32,
}

impl LogBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            second: now,
            spent: 0,
        }
    }

    /// Whether this execution is one of those.
    pub(crate) fn admit(&mut self, task: &Task, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.spent = self.spent.saturating_add(1);
        self.spent <= LIMIT || task.is_sampled()
    }
}

/// The log of single attempts.
pub(crate) struct Journal {
    pub(crate) worker_id: String,
    pub(crate) suppressed: IntCounter,
}

/// One line at INFO, or what it adds to the count of those left out.
macro_rules! line {
    ($journal:expr, $attempt:expr, $event:literal, $message:literal $(, $field:ident = $value:expr)*) => {
        if $attempt.logged {
            let task = &$attempt.task;
            in_trace(task, || info!(
                event = $event,
                execution_id = %task.execution_id,
                job_type = task.job_type,
                tenant_id = task.tenant,
                queue = task.queue,
                worker_id = $journal.worker_id,
                attempt = task.attempt,
                $($field = $value,)*
                $message
            ));
        } else {
            $journal.suppressed.inc();
        }
    };
}

impl Journal {
    pub(crate) fn received(&self, attempt: &Shared) {
        line!(self, attempt, "task_received", "task received");
    }

    pub(crate) fn started(&self, attempt: &Shared) {
        line!(self, attempt, "task_started", "task started");
    }

    /// The line for a checkpoint that is durable.
    pub(crate) fn saved(&self, attempt: &Shared, number: u64) {
        let (task, progress) = (
            &attempt.task,
            attempt.account.progress().unwrap_or_default(),
        );
        in_trace(task, || {
            debug!(
                event = "checkpoint_saved",
                execution_id = %task.execution_id,
                job_type = task.job_type,
                tenant_id = task.tenant,
                queue = task.queue,
                worker_id = self.worker_id,
                attempt = task.attempt,
                number,
                progress = progress.done,
                progress_total = progress.total,
                "checkpoint saved"
            );
        });
    }

    /// The line for how it ended; failures always have theirs.
    pub(crate) fn ended(&self, attempt: &Shared, outcome: &Outcome, ran: Duration) {
        let duration_ms = milliseconds(ran);
        match outcome.status() {
            Status::Success | Status::Cancelled | Status::Snoozed => {
                let status = outcome.status().label();
                line!(
                    self,
                    attempt,
                    "task_completed",
                    "task completed",
                    duration_ms = duration_ms,
                    status = status
                );
            }
            Status::Timeout => self.timed_out(&attempt.task, duration_ms),
            Status::Failed => self.failed(&attempt.task, outcome, duration_ms),
        }
    }

    fn timed_out(&self, task: &Task, duration_ms: f64) {
        let limit_ms = milliseconds(task.timeout);
        in_trace(task, || {
            warn!(
                event = "task_timeout",
                execution_id = %task.execution_id,
                job_type = task.job_type,
                tenant_id = task.tenant,
                queue = task.queue,
                worker_id = self.worker_id,
                attempt = task.attempt,
                duration_ms,
                limit_ms,
                status = Status::Timeout.label(),
                "task ran longer than its timeout"
            );
        });
    }

    fn failed(&self, task: &Task, outcome: &Outcome, duration_ms: f64) {
        let Some(failure) = outcome.error() else {
            return;
        };
        in_trace(task, || {
            error!(
                event = "task_failed",
                execution_id = %task.execution_id,
                job_type = task.job_type,
                tenant_id = task.tenant,
                queue = task.queue,
                worker_id = self.worker_id,
                attempt = task.attempt,
                duration_ms,
                status = Status::Failed.label(),
                error = failure.message,
                error_class = %failure.class,
                permanent = failure.is_permanent(),
                "task failed"
            );
        });
    }
}

/// Log lines of an attempt carry the ids of its span.
fn in_trace(task: &Task, log: impl FnOnce()) {
    match task.span() {
        Some(span) => span.enter(log),
        None => log(),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
