use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::{ExecutionId, Items, Progress};
use service::TraceContext;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::account::{Account, CheckpointError, Said, Saved};
use crate::stop::Stop;
use crate::task::Task;

/// What a handler knows about the attempt it makes.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    deadline: Instant,
}

/// One attempt, as the link and the handler share it.
pub(crate) struct Shared {
    pub(crate) task: Task,
    pub(crate) stop: Stop,
    /// When the handler began.
    pub(crate) begun: OnceLock<Instant>,
    /// Whether the handler wants to be asked before it is dropped.
    pub(crate) listens: AtomicBool,
    /// Whether its lines are logged, however it ends.
    pub(crate) logged: bool,
    /// What the handler tells while it runs.
    pub(crate) account: Account,
    headers: OnceLock<HashMap<String, String>>,
}

impl Shared {
    pub(crate) fn new(task: Task, logged: bool, to_link: mpsc::UnboundedSender<Said>) -> Arc<Self> {
        Arc::new(Self {
            account: Account::new((task.execution_id, task.fence), to_link),
            task,
            stop: Stop::default(),
            begun: OnceLock::new(),
            listens: AtomicBool::new(false),
            logged,
            headers: OnceLock::new(),
        })
    }
}

impl Context {
    pub(crate) fn new(shared: Arc<Shared>, deadline: Instant) -> Self {
        Self { shared, deadline }
    }

    /// Which execution this is.
    #[must_use]
    pub fn execution_id(&self) -> ExecutionId {
        self.shared.task.execution_id
    }

    /// The number of this attempt's claim: it grows with each claim of the execution. A store that
    /// remembers the highest one it saw can refuse a holder that has lost its right.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.shared.task.fence
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.shared.task.attempt
    }

    /// Whose work it is.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.shared.task.tenant
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.shared.task.queue
    }

    /// Its job type.
    #[must_use]
    pub fn job_type(&self) -> &str {
        &self.shared.task.job_type
    }

    /// The submitter's own name for the work, or the execution's id.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        &self.shared.task.correlation_id
    }

    /// What to pass on to external calls: the headers as submitted, with `traceparent` (of this
    /// attempt's span), `tracestate` and `X-Correlation-ID`.
    #[must_use]
    pub fn headers(&self) -> &HashMap<String, String> {
        self.shared.headers.get_or_init(|| {
            let task = &self.shared.task;
            let mut headers = task.headers.clone();
            headers.insert("X-Correlation-ID".to_owned(), task.correlation_id.clone());
            if let Some(span) = task.span() {
                headers.insert("traceparent".to_owned(), span.traceparent());
                if !task.tracestate.is_empty() {
                    headers.insert("tracestate".to_owned(), task.tracestate.clone());
                }
            }
            headers
        })
    }

    /// This attempt's span, `None` for work that came without a trace.
    #[must_use]
    pub fn trace_context(&self) -> Option<TraceContext> {
        self.shared.task.span()
    }

    /// A key for systems that recognise repetitions of a request: `<execution id>-<fence>`. It is
    /// another one in each attempt, so a request whose answer was lost with its worker is made
    /// again. Where the effect must happen once per execution whatever it takes (a payment), use
    /// [`Context::execution_id`] alone: then a later attempt gets the first one's answer, a failure
    /// that the other side remembers included.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}-{}", self.execution_id(), self.fence())
    }

    /// Saves `state` for the next attempt, should this one fail or its worker be lost: that finds it as
    /// [`Context::saved`]. Returns once it is durable; while the lane changes hands that may take seconds. Only the
    /// last one counts, so save all that is needed to go on: at most 256 KiB. Each one is a row in the database: save
    /// as often as you would mind losing the work, and no more often.
    ///
    /// # Errors
    /// It is too large; or the worker has lost its right, and this attempt had better end.
    pub async fn checkpoint(&self, state: impl Into<Bytes>) -> Result<(), CheckpointError> {
        self.shared.account.save(state.into()).await
    }

    /// What an earlier attempt saved last: go on from there. `None`: begin at the beginning. It also stays when
    /// somebody has the execution run again.
    #[must_use]
    pub fn saved(&self) -> Option<&Saved> {
        self.shared.task.saved.as_ref()
    }

    /// Says how far the attempt is: `done` of `total` (0: nobody knows), and what it is at, for people. Cheap: it is
    /// sent at most once a second, and kept with a checkpoint and with the result.
    pub fn progress(&self, done: u64, total: u64, note: &str) {
        let progress = Progress::new(done, total, note);
        self.shared.account.note_progress(progress);
    }

    /// Counts items that the attempt has worked through since the last time. They come with its result, however it
    /// ends, unless its worker is lost.
    pub fn count(&self, items: Items) {
        self.shared.account.count(items);
    }

    /// When the attempt will be stopped.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long is left until then; zero if it is past.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Cancelled when the attempt is to come to an end: it is out of time, somebody cancelled the
    /// execution, it has lost its right to run, or the worker shuts down. For whatever doesn't end
    /// by being dropped, such as blocking code. A handler that has called this, or
    /// [`Context::is_execution_cancelled`], is given time to end by itself:
    /// [`WorkerBuilder::cancel_grace`](crate::WorkerBuilder::cancel_grace) if the execution was
    /// cancelled, none if it has lost its right, otherwise up to two and a half seconds. All others
    /// are dropped at once.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.shared.listens.store(true, Ordering::Release);
        self.shared.stop.asked.clone()
    }

    /// Whether somebody cancelled the execution: no other attempt follows this one, so what it began
    /// may be undone. A success or a permanent error still counts as what it is; any other end is
    /// taken for the cancellation's doing.
    #[must_use]
    pub fn is_execution_cancelled(&self) -> bool {
        self.shared.listens.store(true, Ordering::Release);
        self.shared.stop.cancelled().is_some()
    }
}
