use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::attempt;
use crate::attempt_span::AttemptSpans;
use crate::context::Shared;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::outcome::{Outcome, Report, Times};
use crate::registry::Registry;
use crate::stop::Urgency;

/// Where attempts run: the runtime that the worker was started on, never the link's.
pub(crate) struct Runner {
    pub(crate) runtime: Handle,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) journal: Journal,
    pub(crate) spans: AttemptSpans,
    /// How long a handler that listens may go on when its execution is cancelled.
    pub(crate) cancel_grace: Duration,
    /// Where ends are told. Unbounded, because an attempt must never wait with its slot; there are
    /// never more in it than there are slots.
    pub(crate) ends: mpsc::UnboundedSender<Report>,
}

impl Runner {
    /// Begins an attempt. Exactly one report follows.
    pub(crate) fn start(self: &Arc<Self>, shared: Arc<Shared>, payload: Bytes) {
        self.runtime.spawn(run(Arc::clone(self), shared, payload));
    }

    /// Reports how an attempt ended; logs and counts it if it ever began.
    fn finish(&self, shared: &Shared, outcome: Outcome) {
        let times = Times {
            arrived: shared.task.arrived,
            begun: shared.begun.get().copied(),
            ended: Instant::now(),
        };
        let task = &shared.task;
        if times.begun.is_some() {
            self.metrics
                .count_end(&task.job_type, outcome.status(), times.ran());
            self.journal.ended(shared, &outcome, times.ran());
            self.spans.emit(task, &outcome, times);
        }
        let report = Report::new(shared, outcome, times);
        // Nobody listens any more once the worker has left.
        let _ = self.ends.send(report);
    }
}

async fn run(runner: Arc<Runner>, shared: Arc<Shared>, payload: Bytes) {
    let mut end = End {
        runner: &runner,
        shared: &shared,
        outcome: None,
    };
    if shared.stop.is_at_least(Urgency::Ask) {
        // It never begins.
        return;
    }
    if shared.task.timeout.is_zero() {
        end.outcome = Some(Outcome::TimedOut(Duration::ZERO));
        return;
    }
    let begun = Instant::now();
    // The only place that sets it.
    let _ = shared.begun.set(begun);
    runner.journal.started(&shared);
    let handler = runner.registry.get(&shared.task.job_type);
    end.outcome = Some(match handler {
        Some(handler) => {
            let handler = handler.as_ref();
            attempt::supervise(handler, &shared, payload, begun, runner.cancel_grace).await
        }
        None => attempt::no_handler(&shared.task.job_type),
    });
}

/// Reports the attempt's end when it goes, which it also does if the handler never began, dropping
/// it panics, or the runtime ends: a slot never stays taken by nobody.
struct End<'a> {
    runner: &'a Runner,
    shared: &'a Shared,
    outcome: Option<Outcome>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| {
            let outcome = match std::thread::panicking() {
                true => Outcome::Panicked("the handler panicked while it was stopped".to_owned()),
                false => Outcome::Stopped,
            };
            outcome.unless_told_to_stop(&self.shared.stop)
        });
        self.runner.finish(self.shared, outcome);
    }
}
