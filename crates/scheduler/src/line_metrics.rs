use std::sync::Arc;
use std::time::SystemTime;

use domain::lane::Class;
use domain::{AttemptResult, ExecutionState, FinalState, Micros, Verdict};
use prometheus::{Histogram, IntCounter};
use rustc_hash::FxHashMap;

use crate::group::{CancelledNow, ClaimedTask, Ended};
use crate::metrics::Metrics;
use crate::shared::{Known, Work};

/// Statuses of `executions_completed_total` that an outcome of this path can have.
const STATUSES: [&str; 5] = ["SUCCESS", "FAILED", "RETRY", "DEAD_LETTERED", "CANCELLED"];

/// The metrics of a group's lines, each resolved once: no label is hashed for an execution.
pub(crate) struct LinesMetrics {
    metrics: Arc<Metrics>,
    lines: FxHashMap<Class, LineMetrics>,
}

struct LineMetrics {
    dispatched: IntCounter,
    enqueued: IntCounter,
    dequeued: IntCounter,
    acknowledged: IntCounter,
    rejected: IntCounter,
    retried: IntCounter,
    reaped: IntCounter,
    completed: [IntCounter; STATUSES.len()],
    attempts: [IntCounter; AttemptResult::ALL.len()],
    duration: Histogram,
    enqueue_to_start: Histogram,
    to_dispatch: Histogram,
    to_completion: Histogram,
}

impl LinesMetrics {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            lines: FxHashMap::default(),
        }
    }

    /// What is for later enters its line when its time comes.
    pub(crate) fn accepted(&mut self, accepted: &[(Known, SystemTime)]) {
        for (known, _) in accepted {
            let line = self.line(known.work.class(), &known.work);
            if known.work.head.due.is_none() {
                line.enqueued.inc();
            }
        }
    }

    /// What came through the inbox is counted like what is promoted.
    pub(crate) fn received(&mut self, received: &[Class]) {
        for class in received {
            if let Some(line) = self.lines.get(class) {
                line.enqueued.inc();
            }
        }
    }

    pub(crate) fn cancelled(&mut self, cancelled: &[CancelledNow]) {
        for cancelled in cancelled {
            if let CancelledNow::Over { known, .. } = cancelled {
                let line = self.line(known.work.class(), &known.work);
                line.completed[status_of(FinalState::Cancelled)].inc();
            }
        }
    }

    /// Lines that were promoted into before any of their executions was known here are counted when
    /// their names are: at their next claim.
    pub(crate) fn promoted(&mut self, promoted: &[(Class, u64)]) {
        for (class, count) in promoted {
            self.metrics.polled.inc_by(*count);
            if let Some(line) = self.lines.get(class) {
                line.enqueued.inc_by(*count);
            }
        }
    }

    pub(crate) fn claimed(&mut self, claimed: &[ClaimedTask], at: Micros) {
        for task in claimed {
            let work = &task.known.work;
            let waited = at.since(task.enqueued).as_secs_f64();
            self.metrics.dispatch_latency.observe(waited);
            let line = self.line(work.class(), work);
            line.dequeued.inc();
            line.dispatched.inc();
            line.to_dispatch
                .observe(at.since(work_due(task)).as_secs_f64());
        }
    }

    pub(crate) fn ended(&mut self, ended: &[Ended], at: Micros) {
        for end in ended {
            let accepted = accepted_at(&end.known);
            let line = self.line(end.class, &end.known.work);
            line.end(end);
            if end.state.is_final() {
                line.to_completion.observe(at.since(accepted).as_secs_f64());
            }
        }
    }

    fn line(&mut self, class: Class, work: &Work) -> &LineMetrics {
        let metrics = &self.metrics;
        self.lines
            .entry(class)
            .or_insert_with(|| LineMetrics::new(metrics, class, work))
    }
}

impl LineMetrics {
    fn new(metrics: &Metrics, class: Class, work: &Work) -> Self {
        let families = &metrics.lines;
        let queue = families.queue_names.admit(&work.queue.name);
        let job_type = families.type_names.admit(&work.job_type);
        let (queue, job_type, priority) = (&*queue, &*job_type, class.priority.name());
        // An ad-hoc submission has its type as its job's name.
        let job = job_type;
        let line = [queue, priority];
        Self {
            dispatched: families
                .queue
                .dispatched
                .with_label_values(&[priority, queue]),
            enqueued: families.queue.enqueued.with_label_values(&line),
            dequeued: families.queue.dequeued.with_label_values(&line),
            acknowledged: families.queue.acknowledged.with_label_values(&[queue]),
            rejected: families.queue.rejected.with_label_values(&[queue]),
            retried: families.outcome.retried.with_label_values(&line),
            reaped: families.outcome.reaped.with_label_values(&line),
            completed: STATUSES.map(|status| {
                families
                    .outcome
                    .completed
                    .with_label_values(&[job, job_type, queue, priority, status])
            }),
            attempts: AttemptResult::ALL.map(|result| {
                families
                    .outcome
                    .attempts
                    .with_label_values(&[job_type, queue, result.name()])
            }),
            duration: families
                .outcome
                .duration
                .with_label_values(&[job, job_type, queue]),
            enqueue_to_start: families
                .outcome
                .enqueue_to_start
                .with_label_values(&[priority]),
            to_dispatch: families.queue.to_dispatch.with_label_values(&[queue]),
            to_completion: families.outcome.to_completion.with_label_values(&[queue]),
        }
    }

    fn end(&self, end: &Ended) {
        let place = AttemptResult::ALL
            .iter()
            .position(|result| *result == end.result);
        if let Some(place) = place {
            self.attempts[place].inc();
        }
        match end.result {
            AttemptResult::Success => self.acknowledged.inc(),
            _ => self.rejected.inc(),
        }
        if !matches!(
            end.result,
            AttemptResult::Lost | AttemptResult::Returned | AttemptResult::Cancelled
        ) {
            self.duration.observe(seconds(end.run_us));
            self.enqueue_to_start.observe(seconds(end.start_us));
        }
        match end.decision.verdict {
            Verdict::Close(state) => self.completed[status_of(state)].inc(),
            Verdict::RetryAfter(_) => {
                self.completed[2].inc();
                self.retried.inc();
            }
            Verdict::Requeue => {
                self.enqueued.inc();
                if end.result == AttemptResult::Lost {
                    self.reaped.inc();
                }
            }
        }
    }
}

fn status_of(state: FinalState) -> usize {
    match ExecutionState::from(state) {
        ExecutionState::Succeeded => 0,
        ExecutionState::Failed => 1,
        ExecutionState::Cancelled => 4,
        _ => 3,
    }
}

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// When it was accepted: its id says so, to the millisecond.
fn accepted_at(known: &Known) -> Micros {
    Micros(i64::try_from(known.id.home_ms()).unwrap_or(0) * 1_000)
}

/// When it was meant to be handed out: at its acceptance, or, tried again, when it entered its line.
fn work_due(task: &ClaimedTask) -> Micros {
    if task.attempt == 1 {
        accepted_at(&task.known)
    } else {
        task.enqueued
    }
}
