use std::sync::Arc;
use std::time::Duration;

use domain::{Micros, Reason, Verdict};
use service::TraceContext;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::group::{CancelledNow, ClaimedTask, Ended, RevisedNow};
use crate::metrics::Metrics;
use crate::shared::{Known, Work};

/// Lines about single executions that a group writes in a second.
const LIMIT: u32 = 500;

/// The log of single executions: every one up to a limit; beyond it failures and kept traces alone, and
/// a count of what was left out. Reading a line for each of 100 000 executions a second helps nobody,
/// and costs more than they do.
pub(crate) struct LogBudget {
    metrics: Arc<Metrics>,
    second: Instant,
    spent: u32,
}

impl LogBudget {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            second: Instant::now(),
            spent: 0,
        }
    }

    fn admits(&mut self, work: &Work) -> bool {
        if self.spent >= LIMIT && self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.spent) = (Instant::now(), 0);
        }
        self.spent = self.spent.saturating_add(1);
        let admitted = self.spent <= LIMIT || work.is_sampled();
        if !admitted {
            self.metrics.log_lines_suppressed.inc();
        }
        admitted
    }

    pub(crate) fn submitted(&mut self, known: &Known) {
        if self.admits(&known.work) {
            let (id, work) = (known.id, &known.work);
            in_trace(work, || {
                info!(event = "task_submitted", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, partition = id.lane().0,
                    "execution accepted");
            });
        }
    }

    pub(crate) fn dispatched(&mut self, task: &ClaimedTask, at: Micros) {
        if self.admits(&task.known.work) {
            let (id, work) = (task.known.id, &task.known.work);
            let latency_ms = at.since(task.enqueued).as_micros() as f64 / 1_000.0;
            in_trace(work, || {
                info!(event = "job_dispatched", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, attempt = task.attempt,
                    worker_id = &*task.session.worker_id, latency_ms, "execution handed out");
            });
        }
    }

    pub(crate) fn cancelled(&mut self, cancelled: &CancelledNow) {
        if let CancelledNow::Over { known, .. } = cancelled
            && self.admits(&known.work)
        {
            let (id, work) = (known.id, &known.work);
            in_trace(work, || {
                info!(event = "execution_cancelled", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, partition = id.lane().0,
                    "execution cancelled");
            });
        }
    }

    /// What a person did is always told.
    pub(crate) fn revised(&mut self, revised: &RevisedNow) {
        let (id, work) = (revised.known.id, &revised.known.work);
        in_trace(work, || match revised.reason {
            Reason::Discarded => {
                info!(event = "execution_discarded", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, partition = id.lane().0,
                    "dead letter discarded");
            }
            _ => {
                info!(event = "execution_redriven", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, partition = id.lane().0,
                    "execution runs again");
            }
        });
    }

    /// Success is the worker's line to write; what is tried again or given up is this one's.
    pub(crate) fn ended(&mut self, ended: &Ended) {
        let (id, work) = (ended.known.id, &ended.known.work);
        let error = ended
            .error
            .as_ref()
            .map(|(class, message)| format!("{class}: {message}"));
        let reason = reason_name(ended.decision.reason);
        let budgets = ended.decision.budgets;
        let after_attempts = u32::from(budgets.attempts) + u32::from(budgets.lost);
        match ended.decision.verdict {
            Verdict::Close(domain::FinalState::Succeeded) => {}
            Verdict::Close(domain::FinalState::Cancelled) => in_trace(work, || {
                info!(event = "execution_cancelled", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, attempt = ended.attempt,
                    worker_id = &*ended.worker, "execution cancelled while it ran");
            }),
            Verdict::Close(_) => in_trace(work, || {
                tracing::error!(event = "dispatch_failed", execution_id = %id,
                    tenant_id = &*work.tenant, queue = work.queue.name, job_type = &*work.job_type,
                    after_attempts, reason, error,
                    "execution given up");
            }),
            Verdict::RetryAfter(wait) if ended.decision.reason == Reason::Snoozed => {
                let wait_ms = wait.as_secs_f64() * 1_000.0;
                in_trace(work, || {
                    info!(event = "execution_snoozed", execution_id = %id,
                        tenant_id = &*work.tenant, queue = work.queue.name,
                        job_type = &*work.job_type, attempt = ended.attempt,
                        worker_id = &*ended.worker, wait_ms, "its handler put the execution off");
                });
            }
            Verdict::Requeue if ended.decision.reason == Reason::Returned => in_trace(work, || {
                info!(event = "execution_returned", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, attempt = ended.attempt,
                    worker_id = &*ended.worker, "its worker handed the execution back");
            }),
            Verdict::RetryAfter(_) | Verdict::Requeue => in_trace(work, || {
                warn!(event = "dispatch_retry", execution_id = %id, tenant_id = &*work.tenant,
                    queue = work.queue.name, job_type = &*work.job_type, attempt = ended.attempt,
                    worker_id = &*ended.worker, reason, error, "attempt failed; another will follow");
            }),
        }
    }
}

/// As the API says it: `WORKER_LOST`.
fn reason_name(reason: Reason) -> &'static str {
    let reason = proto::v1::Reason::try_from(reason as i32).unwrap_or_default();
    let name = reason.as_str_name();
    name.strip_prefix("REASON_").unwrap_or(name)
}

fn in_trace(work: &Work, line: impl FnOnce()) {
    match work
        .head
        .trace
        .as_ref()
        .and_then(|trace| TraceContext::from_wire(trace))
    {
        Some(context) => context.enter(line),
        None => line(),
    }
}
