use std::sync::Arc;
use std::time::SystemTime;

use domain::lane::Class;
use domain::{AttemptResult, Decision, FinalState, Items, Micros, Reason, Verdict};
use prometheus::{Histogram, IntCounter};
use rustc_hash::FxHashMap;

use crate::group::{CancelledNow, ClaimedTask, Ended, RevisedNow};
use crate::metrics::Metrics;
use crate::shared::{Known, Work};

/// What `executions_completed_total` calls what became of an execution.
#[derive(Clone, Copy)]
enum Status {
    Success,
    Failed,
    Retry,
    DeadLettered,
    Cancelled,
    /// Its total time is over.
    Timeout,
}

impl Status {
    /// Their names, in their order.
    const NAMES: [&str; 6] = [
        "SUCCESS",
        "FAILED",
        "RETRY",
        "DEAD_LETTERED",
        "CANCELLED",
        "TIMEOUT",
    ];

    /// That of an attempt's end; what is lost, handed back or put off has none.
    fn of(decision: &Decision) -> Option<Self> {
        Some(match (decision.verdict, decision.reason) {
            (Verdict::Close(FinalState::Succeeded), _) => Self::Success,
            (Verdict::Close(FinalState::Failed), Reason::TotalTimeout) => Self::Timeout,
            (Verdict::Close(FinalState::Failed), _) => Self::Failed,
            (Verdict::Close(FinalState::DeadLettered), _) => Self::DeadLettered,
            (Verdict::Close(FinalState::Cancelled), _) => Self::Cancelled,
            (Verdict::RetryAfter(_), Reason::Snoozed) | (Verdict::Requeue, _) => return None,
            (Verdict::RetryAfter(_), _) => Self::Retry,
        })
    }
}

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
    completed: [IntCounter; Status::NAMES.len()],
    attempts: [IntCounter; AttemptResult::ALL.len()],
    duration: Histogram,
    enqueue_to_start: Histogram,
    to_dispatch: Histogram,
    to_completion: Histogram,
    /// By status, in the order of `Items::by_status`.
    items: [IntCounter; 3],
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

    /// What is run again enters its line anew.
    pub(crate) fn revised(&mut self, revised: &[RevisedNow]) {
        for revised in revised.iter().filter(|revised| !revised.state.is_final()) {
            let work = &revised.known.work;
            self.line(work.class(), work).enqueued.inc();
        }
    }

    pub(crate) fn cancelled(&mut self, cancelled: &[CancelledNow]) {
        for cancelled in cancelled {
            if let CancelledNow::Over { known, .. } = cancelled {
                let line = self.line(known.work.class(), &known.work);
                line.completed[Status::Cancelled as usize].inc();
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
            let due = due_at(&end.known);
            let line = self.line(end.class, &end.known.work);
            line.end(end);
            if end.state.is_final() {
                line.to_completion.observe(at.since(due).as_secs_f64());
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
            completed: Status::NAMES.map(|status| {
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
            items: Items::default()
                .by_status()
                .map(|(status, _)| families.outcome.items.with_label_values(&[job, status])),
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
        if !end.items.is_none() {
            let counts = end.items.by_status();
            for (counter, (_, count)) in self.items.iter().zip(counts) {
                counter.inc_by(count);
            }
        }
        let status = Status::of(&end.decision);
        if let Some(status) = status {
            self.completed[status as usize].inc();
        }
        if matches!(status, Some(Status::Retry)) {
            self.retried.inc();
        }
        if end.decision.verdict == Verdict::Requeue {
            self.enqueued.inc();
            if end.result == AttemptResult::Lost {
                self.reaped.inc();
            }
        }
    }
}

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

/// When it was to be done: since its acceptance, or since its due time, as its id says to the millisecond; or since
/// somebody had it run again.
fn due_at(known: &Known) -> Micros {
    known.work.reopened.unwrap_or(known.id.home_time())
}

/// When it was meant to be handed out: when it was to be done, or, tried again, when it entered its line.
fn work_due(task: &ClaimedTask) -> Micros {
    if task.attempt == 1 {
        due_at(&task.known)
    } else {
        task.enqueued
    }
}
