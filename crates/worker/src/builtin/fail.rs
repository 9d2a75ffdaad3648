use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;

use crate::context::Context;
use crate::handler::{Handler, HandlerError, Output};
use crate::payload::{FromPayload, Json};

/// Fails as it is told to: for trying out retries, alerts and dead letters.
pub struct Fail;

/// What [`Fail`] takes. All of it may be left out, the payload too.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default, deny_unknown_fields)]
pub struct FailPayload {
    /// How many attempts fail; all if not said.
    pub times: Option<u32>,
    /// The error says that trying again is useless.
    pub permanent: bool,
    /// The error's message.
    pub message: Option<String>,
    /// The error says that it must not be tried again sooner, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl FromPayload for FailPayload {
    fn from_payload(body: Bytes, content_type: &str) -> Result<Self, String> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        Json::from_payload(body, content_type).map(|Json(payload)| payload)
    }
}

#[async_trait]
impl Handler for Fail {
    type Payload = FailPayload;

    async fn run(&self, payload: FailPayload, context: Context) -> Result<Output, HandlerError> {
        if payload.times.is_some_and(|times| context.attempt() > times) {
            return Ok(Output::none());
        }
        let message = payload
            .message
            .unwrap_or_else(|| "failed as it was told to".to_owned());
        let error = HandlerError::new("told_to_fail", message);
        Err(match payload.retry_after_ms {
            _ if payload.permanent => error.permanent(),
            Some(ms) => error.retry_after(Duration::from_millis(ms)),
            None => error,
        })
    }
}
