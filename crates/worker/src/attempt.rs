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
use crate::stop::Urgency;
use crate::task::Task;

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
) -> Outcome {
    if shared.stop.is_at_least(Urgency::Ask) {
        return Outcome::Stopped;
    }
    let deadline = begun + shared.task.timeout;
    let mut handler = pin!(call(handler, shared, payload, deadline));
    let timed_out = tokio::select! {
        biased;
        outcome = &mut handler => return outcome,
        () = shared.stop.at_least(Urgency::Ask) => false,
        () = sleep_until(deadline.into()) => true,
    };
    if !shared.listens.load(Ordering::Acquire) {
        return after_asking(Outcome::Stopped, timed_out, &shared.task);
    }
    if timed_out {
        shared.stop.asked.cancel();
    }
    let outcome = tokio::select! {
        biased;
        outcome = handler => outcome,
        () = shared.stop.at_least(Urgency::Drop) => Outcome::Stopped,
        () = grace(timed_out) => Outcome::Stopped,
    };
    after_asking(outcome, timed_out, &shared.task)
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

async fn grace(timed_out: bool) {
    match timed_out {
        true => sleep(ASK_GRACE).await,
        // Who asked for the stop also says when the waiting is over.
        false => pending().await,
    }
}

/// Out of time stays out of time, whatever the handler made of its last moments. One that was
/// asked to stop for another reason and finished nevertheless is done; its errors are most likely
/// the stop's own.
fn after_asking(outcome: Outcome, timed_out: bool, task: &Task) -> Outcome {
    match outcome {
        _ if timed_out => Outcome::TimedOut(task.timeout),
        Outcome::Done(output) => Outcome::Done(output),
        _ => Outcome::Stopped,
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "the handler panicked without a message".to_owned())
}
