use std::any::Any;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::Either;
use tokio::time::{sleep, sleep_until};

use crate::context::{Context, Shared};
use crate::handler::HandlerError;
use crate::outcome::Outcome;
use crate::registry::AnyHandler;
use crate::stop::{Stop, Urgency};

/// How long a handler that is out of time, and listens, may take to come to an end by itself.
pub(crate) const ASK_GRACE: Duration = Duration::from_millis(2_500);

/// Runs the handler until it ends, its time is over, or it is told to stop. On return the handler's
/// future has been dropped.
///
/// The handler is polled first, so that one which is done at once costs no timer.
pub(crate) async fn supervise(
    handler: &dyn AnyHandler,
    shared: &Arc<Shared>,
    payload: Bytes,
    begun: Instant,
    cancel_grace: Duration,
) -> Outcome {
    let (task, stop) = (&shared.task, &shared.stop);
    let deadline = begun + task.timeout;
    let mut handler = pin!(call(handler, shared, payload, deadline));
    let timed_out = tokio::select! {
        biased;
        outcome = &mut handler => return outcome.unless_told_to_stop(stop),
        () = stop.at_least(Urgency::Ask) => false,
        () = sleep_until(deadline.into()) => true,
    };
    if timed_out {
        stop.asked.cancel();
    }
    let outcome = match shared.listens.load(Ordering::Acquire) {
        true => tokio::select! {
            biased;
            outcome = handler => outcome,
            () = stop.at_least(Urgency::Drop) => Outcome::Stopped,
            () = grace(timed_out, stop, cancel_grace) => Outcome::Stopped,
        },
        false => Outcome::Stopped,
    };
    match timed_out {
        // It stays so, whatever the handler made of its last moments.
        true => Outcome::TimedOut(task.timeout),
        false => outcome.unless_told_to_stop(stop),
    }
}

/// The attempt at a type that the worker never said it has. Another worker may have it.
pub(crate) fn no_handler(job_type: &str) -> Outcome {
    let message = format!("this worker has no handler for the type {job_type:?}");
    Outcome::Failed(HandlerError::new("no_handler", message))
}

/// The handler in the trace context of its span, its panics caught.
async fn call(
    handler: &dyn AnyHandler,
    shared: &Arc<Shared>,
    payload: Bytes,
    deadline: Instant,
) -> Outcome {
    let context = Context::new(Arc::clone(shared), deadline);
    let task = &shared.task;
    let answer = async { handler.call(payload, &task.content_type, context).await };
    let answer = AssertUnwindSafe(match task.span() {
        Some(span) => Either::Left(span.scope(answer)),
        None => Either::Right(answer),
    });
    match answer.catch_unwind().await {
        Ok(answer) => Outcome::of_answer(answer),
        Err(panic) => Outcome::Panicked(panic_message(panic.as_ref())),
    }
}

async fn grace(timed_out: bool, stop: &Stop, cancel_grace: Duration) {
    match stop.cancelled() {
        _ if timed_out => sleep(ASK_GRACE).await,
        Some(since) => sleep_until((since + cancel_grace).into()).await,
        // Who asked for the stop also says when the waiting is over.
        None => pending().await,
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "the handler panicked without a message".to_owned())
}
