use std::time::Duration;

use async_trait::async_trait;
use domain::Items;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::handler::{Handler, HandlerError, Output};
use crate::payload::Json;

/// Counts, saves how far it is, and goes on from there when it is tried again: shows checkpoints, progress and items.
pub struct Count;

/// What [`Count`] takes.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub struct CountPayload {
    /// How far, from 0.
    pub n: u64,
    /// How long each number takes, in milliseconds.
    #[serde(default)]
    pub step_ms: u64,
    /// After how many numbers it saves how far it is; never if not said.
    #[serde(default)]
    pub every: u64,
    /// It fails once it is this far, if it began before.
    #[serde(default)]
    pub fail_at: Option<u64>,
}

/// What it returns.
#[derive(Serialize)]
struct Counted {
    /// Where this attempt began.
    from: u64,
    to: u64,
}

#[async_trait]
impl Handler for Count {
    type Payload = Json<CountPayload>;

    async fn run(
        &self,
        Json(payload): Self::Payload,
        context: Context,
    ) -> Result<Output, HandlerError> {
        let CountPayload {
            n,
            step_ms,
            every,
            fail_at,
        } = payload;
        let from = begin(&context)?;
        for done in from + 1..=n {
            tokio::time::sleep(Duration::from_millis(step_ms)).await;
            context.count(Items::new(1, 0, 0));
            context.progress(done, n, "counting");
            if every > 0 && done % every == 0 {
                context.checkpoint(done.to_string()).await?;
            }
            if fail_at == Some(done) {
                return Err(HandlerError::new(
                    "told_to_fail",
                    format!("failed at {done}"),
                ));
            }
        }
        Output::json(&Counted { from, to: n })
    }
}

/// Where an earlier attempt was when it last saved that, or 0. What it counts again was counted by no result.
fn begin(context: &Context) -> Result<u64, HandlerError> {
    let Some(saved) = context.saved() else {
        return Ok(0);
    };
    let text = String::from_utf8_lossy(&saved.state);
    text.parse().map_err(|_| {
        HandlerError::new("checkpoint", format!("{text:?} is no number to go on from")).permanent()
    })
}
