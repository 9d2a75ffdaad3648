use prometheus::{HistogramVec, IntCounterVec};
use service::LabelGuard;

use crate::metrics::{Families, Own};

/// Distinct queues and types that metrics tell apart.
const NAMES: usize = 200;

/// Families whose labels are a line's: resolved once for each line.
pub(crate) struct LineFamilies {
    pub(crate) queue: QueueFamilies,
    pub(crate) outcome: OutcomeFamilies,
    pub(crate) queue_names: LabelGuard,
    pub(crate) type_names: LabelGuard,
}

/// What goes in and out of queues.
pub(crate) struct QueueFamilies {
    pub(crate) dispatched: IntCounterVec,
    pub(crate) enqueued: IntCounterVec,
    pub(crate) dequeued: IntCounterVec,
    pub(crate) acknowledged: IntCounterVec,
    pub(crate) rejected: IntCounterVec,
    pub(crate) to_dispatch: HistogramVec,
}

/// What became of attempts and executions.
pub(crate) struct OutcomeFamilies {
    pub(crate) completed: IntCounterVec,
    pub(crate) attempts: IntCounterVec,
    pub(crate) retried: IntCounterVec,
    pub(crate) reaped: IntCounterVec,
    pub(crate) duration: HistogramVec,
    pub(crate) enqueue_to_start: HistogramVec,
    pub(crate) to_completion: HistogramVec,
    pub(crate) items: IntCounterVec,
}

impl LineFamilies {
    pub(crate) fn new(all: &Families<'_>, own: &Own<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            queue: QueueFamilies::new(all, own)?,
            outcome: OutcomeFamilies::new(all)?,
            queue_names: LabelGuard::new("queue_name", NAMES, all.registry),
            type_names: LabelGuard::new("job_type", NAMES, all.registry),
        })
    }
}

impl QueueFamilies {
    fn new(all: &Families<'_>, own: &Own<'_>) -> anyhow::Result<Self> {
        let line = &["queue_name", "priority"];
        let queue = &["queue_name"];
        Ok(Self {
            dispatched: own.counters(
                "scheduler_jobs_dispatched_total",
                "Executions handed to a worker.",
                &["priority", "queue_name"],
            )?,
            enqueued: all.counters(
                "queue_messages_enqueued_total",
                "Executions that entered QUEUED.",
                line,
            )?,
            dequeued: all.counters("queue_messages_dequeued_total", "Executions claimed.", line)?,
            acknowledged: all.counters(
                "queue_messages_acknowledged_total",
                "Claimed executions that came back as success.",
                queue,
            )?,
            rejected: all.counters(
                "queue_messages_rejected_total",
                "Claimed executions that came back as anything else.",
                queue,
            )?,
            to_dispatch: all.histograms(
                "schedule_to_dispatch_seconds",
                "From the scheduled time to handed out.",
                queue,
            )?,
        })
    }
}

impl OutcomeFamilies {
    fn new(all: &Families<'_>) -> anyhow::Result<Self> {
        let line = &["queue_name", "priority"];
        Ok(Self {
            completed: all.counters(
                "executions_completed_total",
                "What outcomes made of executions, RETRY included.",
                &["job_name", "job_type", "queue_name", "priority", "status"],
            )?,
            attempts: all.counters(
                "execution_attempts_total",
                "Attempts, by how they ended.",
                &["job_type", "queue_name", "result"],
            )?,
            retried: all.counters("executions_retried_total", "To be retried.", line)?,
            reaped: all.counters(
                "executions_reaped_total",
                "Executions taken back from a lost worker.",
                line,
            )?,
            duration: all.histograms(
                "execution_duration_seconds",
                "Run time of one attempt.",
                &["job_name", "job_type", "queue_name"],
            )?,
            enqueue_to_start: all.histograms(
                "enqueue_to_start_seconds",
                "From enqueued to a worker's begin.",
                &["priority"],
            )?,
            to_completion: all.histograms(
                "schedule_to_completion_seconds",
                "From the scheduled time to the final state.",
                &["queue_name"],
            )?,
            items: all.counters(
                "execution_items_processed_total",
                "Items that handlers counted.",
                &["job_name", "status"],
            )?,
        })
    }
}
