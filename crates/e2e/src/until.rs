//! Waiting for what is expected, and not for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

const POLL: Duration = Duration::from_millis(20);

/// Waits until it is so; `what` says in an error what was expected.
///
/// # Errors
/// It isn't so within `deadline`, or asking fails.
pub async fn until(
    what: &str,
    deadline: Duration,
    mut good: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    while !good().await? {
        ensure!(
            begin.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        sleep(POLL).await;
    }
    Ok(())
}
