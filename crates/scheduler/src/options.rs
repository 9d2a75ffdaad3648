//! Keeps up with what people set of queues and tenants.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// A change takes effect within this time.
const EVERY: Duration = Duration::from_secs(1);

/// Reads the options of queues and tenants again and again; what was read last stands meanwhile.
pub(crate) async fn keep_reading(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut reads = tokio::time::interval(EVERY);
    reads.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = reads.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = shared.catalog.read_options().await {
            tracing::warn!(event = "options_unread", %error,
                "the options of queues can't be read: those known stay in force");
        }
    }
}
