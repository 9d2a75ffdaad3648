use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde::Deserialize;

use crate::context::Context;
use crate::handler::{Handler, HandlerError, Output};
use crate::payload::Json;

/// Waits; or puts itself off until it is time to.
pub struct Sleep;

/// What [`Sleep`] takes.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub struct SleepPayload {
    /// How long, in milliseconds.
    pub ms: u64,
    /// Before this time, in milliseconds since 1970, it puts itself off.
    #[serde(default)]
    pub not_before_unix_ms: u64,
    /// By how much, in milliseconds: 1000 if not said.
    pub snooze_ms: Option<u64>,
}

#[async_trait]
impl Handler for Sleep {
    type Payload = Json<SleepPayload>;

    async fn run(
        &self,
        Json(payload): Self::Payload,
        _context: Context,
    ) -> Result<Output, HandlerError> {
        let begin = UNIX_EPOCH + Duration::from_millis(payload.not_before_unix_ms);
        if SystemTime::now() < begin {
            let wait = Duration::from_millis(payload.snooze_ms.unwrap_or(1_000));
            return Err(HandlerError::snooze(wait));
        }
        tokio::time::sleep(Duration::from_millis(payload.ms)).await;
        Ok(Output::none())
    }
}
