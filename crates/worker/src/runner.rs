use std::sync::Arc;
use std::time::Instant;

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

/// Where attempts run: the runtime that the worker was started on, never the link's.
pub(crate) struct Runner {
    pub(crate) runtime: Handle,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) journal: Journal,
    pub(crate) spans: AttemptSpans,
    /// Where ends are told. Unbounded, because an attempt must never wait with its slot; there are
    /// never more in it than there are slots.
    pub(crate) ends: mpsc::UnboundedSender<Report>,
}

impl Runner {
    /// Begins an attempt. Exactly one report follows.
    pub(crate) fn start(self: &Arc<Self>, shared: Arc<Shared>, payload: Bytes) {
        self.runtime.spawn(run(Arc::clone(self), shared, payload));
    }

    /// Logs, counts and reports how an attempt ended.
    fn finish(&self, shared: &Shared, outcome: Outcome) {
        let times = Times {
            arrived: shared.task.arrived,
            begun: shared.begun.get().copied(),
            ended: Instant::now(),
        };
        let task = &shared.task;
        self.metrics
            .count_end(&task.job_type, outcome.status(), times.ran());
        self.journal.ended(shared, &outcome, times.ran());
        self.spans.emit(task, &outcome, times);
        let report = Report::new(task.execution_id, task.fence, outcome, times);
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
    let begun = Instant::now();
    // The only place that sets it.
    let _ = shared.begun.set(begun);
    runner.journal.started(&shared);
    let handler = runner.registry.get(&shared.task.job_type);
    end.outcome = Some(match handler {
        Some(handler) => attempt::supervise(handler.as_ref(), &shared, payload, begun).await,
        None => attempt::no_handler(&shared.task.job_type),
    });
}

/// Reports the attempt's end when it goes, which it also does if dropping the handler panics or
/// the runtime ends: a slot never stays taken by nobody.
struct End<'a> {
    runner: &'a Runner,
    shared: &'a Shared,
    outcome: Option<Outcome>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let outcome = self
            .outcome
            .take()
            .unwrap_or_else(|| match std::thread::panicking() {
                true => Outcome::Panicked("the handler panicked while it was stopped".to_owned()),
                false => Outcome::Stopped,
            });
        self.runner.finish(self.shared, outcome);
    }
}
