use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::limits::{MAX_ERROR_BYTES, MAX_ERROR_CLASS_BYTES, MAX_OUTPUT_BYTES, cut_text};
use domain::{ExecutionId, Items, Progress};
use proto::v1;

use crate::account::{items_on_wire, progress_on_wire};
use crate::context::Shared;
use crate::handler::{HandlerError, Output, Then};
use crate::stop::{Stop, Urgency};

/// How an attempt ended, as the worker saw it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The handler returned.
    Done(Output),
    /// It returned an error.
    Failed(HandlerError),
    /// It put the attempt off by so much.
    Snoozed(Duration),
    /// It panicked.
    Panicked(String),
    /// It was stopped for running longer than this, or, if that is nothing, never began.
    TimedOut(Duration),
    /// It was told to stop, and did before it was done; or it never began.
    Stopped,
    /// The same, because somebody cancelled the execution.
    Cancelled,
}

/// What `worker_tasks_completed_total`, logs and spans call it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    Success,
    Failed,
    Timeout,
    Cancelled,
    /// Not counted.
    Snoozed,
}

impl Status {
    /// Those that are counted.
    pub(crate) const COUNTED: [Self; 4] =
        [Self::Success, Self::Failed, Self::Timeout, Self::Cancelled];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
            Self::Timeout => "TIMEOUT",
            Self::Cancelled => "CANCELLED",
            Self::Snoozed => "SNOOZED",
        }
    }
}

impl Outcome {
    /// The handler's answer, held to the limits of the wire.
    pub(crate) fn of_answer(answer: Result<Output, HandlerError>) -> Self {
        match answer {
            Ok(output) if output.body.len() > MAX_OUTPUT_BYTES => {
                let message = format!(
                    "{} bytes of output; at most {MAX_OUTPUT_BYTES} are kept",
                    output.body.len()
                );
                Self::Failed(HandlerError::new("output_too_large", message).permanent())
            }
            Ok(output) => Self::Done(output),
            Err(error) => match error.then {
                Then::Snooze(wait) => Self::Snoozed(wait),
                _ => Self::Failed(error),
            },
        }
    }

    /// What an end counts as if the handler was told to stop before it: one that finished
    /// nevertheless is done; errors are most likely the stop's own. Of what was cancelled a
    /// permanent error stands too: it says as well as the cancellation that nothing follows.
    pub(crate) fn unless_told_to_stop(self, stop: &Stop) -> Self {
        let cancelled = stop.cancelled().is_some();
        match self {
            Self::Done(_) => self,
            Self::Failed(error) if cancelled && error.is_permanent() => Self::Failed(error),
            _ if cancelled => Self::Cancelled,
            Self::Snoozed(_) => self,
            _ if stop.is_at_least(Urgency::Ask) => Self::Stopped,
            _ => self,
        }
    }

    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Done(_) => Status::Success,
            Self::Failed(_) | Self::Panicked(_) => Status::Failed,
            Self::TimedOut(_) => Status::Timeout,
            Self::Stopped | Self::Cancelled => Status::Cancelled,
            Self::Snoozed(_) => Status::Snoozed,
        }
    }

    /// What went wrong, if anything.
    pub(crate) fn error(&self) -> Option<HandlerError> {
        match self {
            Self::Done(_) | Self::Snoozed(_) | Self::Stopped | Self::Cancelled => None,
            Self::Failed(error) => Some(error.clone()),
            Self::Panicked(message) => Some(HandlerError::new("panic", message.clone())),
            Self::TimedOut(Duration::ZERO) => {
                let message = "the execution's total time was over before the attempt could begin";
                Some(HandlerError::new("timeout", message))
            }
            Self::TimedOut(limit) => {
                let message = format!("ran longer than its timeout of {limit:?} and was stopped");
                Some(HandlerError::new("timeout", message))
            }
        }
    }

    /// For how long the next attempt is put off.
    fn put_off(&self) -> Duration {
        match self {
            Self::Snoozed(wait) => *wait,
            Self::Failed(error) => match error.then {
                Then::RetryAfter(wait) => wait,
                _ => Duration::ZERO,
            },
            _ => Duration::ZERO,
        }
    }

    fn result(&self) -> v1::AttemptResult {
        match self {
            Self::Done(_) => v1::AttemptResult::Success,
            Self::Failed(_) => v1::AttemptResult::Error,
            Self::Snoozed(_) => v1::AttemptResult::Snoozed,
            Self::Panicked(_) => v1::AttemptResult::Panic,
            Self::TimedOut(_) => v1::AttemptResult::Timeout,
            Self::Stopped => v1::AttemptResult::Returned,
            Self::Cancelled => v1::AttemptResult::Cancelled,
        }
    }
}

/// What the schedulers are told of an attempt, kept until it is settled.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) execution_id: ExecutionId,
    pub(crate) fence: u64,
    pub(crate) result: v1::AttemptResult,
    output: Bytes,
    content_type: Cow<'static, str>,
    error: Option<v1::AttemptError>,
    put_off: Duration,
    waited: Duration,
    /// How long the handler ran.
    pub(crate) ran: Duration,
    ended: Instant,
    items: Items,
    progress: Option<Progress>,
}

/// When an attempt was where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) arrived: Instant,
    /// `None`: it never began.
    pub(crate) begun: Option<Instant>,
    pub(crate) ended: Instant,
}

impl Times {
    /// How long the handler ran.
    pub(crate) fn ran(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| {
            self.ended.saturating_duration_since(begun)
        })
    }

    fn waited(&self) -> Duration {
        self.begun
            .unwrap_or(self.ended)
            .saturating_duration_since(self.arrived)
    }
}

impl Report {
    pub(crate) fn new(shared: &Shared, outcome: Outcome, times: Times) -> Self {
        let Shared { task, account, .. } = shared;
        let result = outcome.result();
        let error = outcome.error().map(attempt_error);
        let put_off = outcome.put_off();
        let output = if let Outcome::Done(output) = outcome {
            output
        } else {
            Output::none()
        };
        Self {
            execution_id: task.execution_id,
            fence: task.fence,
            result,
            output: output.body,
            content_type: output.content_type,
            error,
            put_off,
            waited: times.waited(),
            ran: times.ran(),
            ended: times.ended,
            items: account.items(),
            progress: account.progress(),
        }
    }

    /// As it is sent at this moment.
    pub(crate) fn to_wire(&self, now: Instant) -> v1::Result {
        v1::Result {
            execution_id: Bytes::copy_from_slice(self.execution_id.as_bytes()),
            fence: self.fence,
            result: self.result.into(),
            output: self.output.clone(),
            output_content_type: self.content_type.to_string(),
            error: self.error.clone(),
            waited_us: micros(self.waited),
            ran_us: micros(self.ran),
            held_us: micros(now.saturating_duration_since(self.ended)),
            put_off_us: micros(self.put_off),
            items: items_on_wire(self.items),
            progress: self.progress.as_ref().map(progress_on_wire),
        }
    }
}

fn attempt_error(error: HandlerError) -> v1::AttemptError {
    v1::AttemptError {
        class: cut_text(&error.class, MAX_ERROR_CLASS_BYTES),
        message: cut_text(&error.message, MAX_ERROR_BYTES),
        permanent: error.is_permanent(),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
