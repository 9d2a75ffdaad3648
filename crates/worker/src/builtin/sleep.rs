use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use crate::context::Context;
use crate::handler::{Handler, HandlerError, Output};
use crate::payload::Json;

/// Waits.
pub struct Sleep;

/// What [`Sleep`] takes.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub struct SleepPayload {
    /// How long, in milliseconds.
    pub ms: u64,
}

#[async_trait]
impl Handler for Sleep {
    type Payload = Json<SleepPayload>;

    async fn run(
        &self,
        Json(payload): Self::Payload,
        _context: Context,
    ) -> Result<Output, HandlerError> {
        tokio::time::sleep(Duration::from_millis(payload.ms)).await;
        Ok(Output::none())
    }
}
