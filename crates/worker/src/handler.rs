use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use crate::context::Context;
use crate::payload::FromPayload;

/// What runs the executions of one job type.
///
/// At least once: an execution runs again if its worker is lost after the handler did its work and
/// before the result was recorded. Use [`Context::idempotency_key`] towards systems that can tell a
/// repetition.
///
/// The future is dropped where it waits when the attempt is out of time, its execution is cancelled,
/// it loses its right to run, or the worker shuts down; see [`Context::cancellation`] for a gentler
/// way. Code that blocks its thread can't be stopped: it keeps its slot until it comes back.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What it takes: [`Bytes`] for the payload as it is, [`crate::Json`] for JSON, or a type of
    /// your own. A payload that doesn't decode is a permanent error of class `payload`.
    type Payload: FromPayload;

    /// Makes one attempt.
    ///
    /// # Errors
    /// Whatever keeps it from being done; tried again by the execution's retry policy unless the
    /// error is permanent. A panic counts as an error of its own kind.
    async fn run(&self, payload: Self::Payload, context: Context) -> Result<Output, HandlerError>;
}

/// What a handler returns: at most 64 KiB, or the attempt fails with class `output_too_large`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    /// The bytes, kept with the execution.
    pub body: Bytes,
    /// Their media type; empty: none.
    pub content_type: Cow<'static, str>,
}

impl Output {
    /// Nothing to say.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// `value` as JSON.
    ///
    /// # Errors
    /// `value` has no JSON form: a permanent error of class `output`.
    pub fn json<T: Serialize>(value: &T) -> Result<Self, HandlerError> {
        let body = serde_json::to_vec(value).map_err(|error| {
            HandlerError::new("output", format!("the output has no JSON form: {error}")).permanent()
        })?;
        Ok(Self {
            body: body.into(),
            content_type: Cow::Borrowed("application/json"),
        })
    }

    /// `text` in UTF-8.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        let body = Bytes::from(text.into());
        Self {
            body,
            content_type: Cow::Borrowed("text/plain; charset=utf-8"),
        }
    }
}

/// Why an attempt failed. Made from any standard error by `?`, then of class `error`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandlerError {
    /// A short stable name, for grouping: at most 128 bytes, cut.
    pub class: Cow<'static, str>,
    /// For people: at most 8 KiB, cut.
    pub message: String,
    /// What is to follow.
    pub then: Then,
}

/// What is to follow an attempt that didn't succeed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Then {
    /// What the execution's retry policy says.
    #[default]
    Retry,
    /// The same, but not before that: as an answer's `Retry-After` asks. At most 24 h.
    RetryAfter(Duration),
    /// Nothing: trying again is useless, and the execution fails at once.
    Fail,
    /// The same attempt after that, at no cost: it hasn't failed, there was nothing to be done yet. At most 24 h.
    Snooze(Duration),
}

impl HandlerError {
    /// An error that is worth another try.
    pub fn new(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            message: message.into(),
            then: Then::Retry,
        }
    }

    /// No failure: the attempt is put off, and spends no budget.
    #[must_use]
    pub fn snooze(wait: Duration) -> Self {
        Self {
            then: Then::Snooze(wait),
            ..Self::new("snooze", "its handler put it off")
        }
    }

    /// The same, but trying again is useless.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.then = Then::Fail;
        self
    }

    /// The same, but it isn't tried again before that, whatever the execution's policy says.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.then = Then::RetryAfter(wait);
        self
    }

    /// Whether trying again is useless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.then == Then::Fail
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new("error", message)
    }
}
