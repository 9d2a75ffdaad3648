use std::time::Duration;

use domain::limits::{self, LimitError};
use domain::{Backoff, Growth, RetryPolicy};

const FIELD: &str = "retry_policy";

/// The retry policy that a submission asks for, its defaults filled in.
///
/// # Errors
/// A value that the gateway should have refused.
pub(super) fn retry_policy(
    asked: Option<&proto::v1::RetryPolicy>,
) -> Result<RetryPolicy, LimitError> {
    let usual = RetryPolicy::default();
    let Some(asked) = asked else {
        return Ok(usual);
    };
    let max_attempts = asked.max_attempts.unwrap_or(u32::from(usual.max_attempts));
    if !(1..=limits::MAX_ATTEMPTS).contains(&max_attempts) {
        return Err(refused(format!(
            "max_attempts {max_attempts} must be 1 to 1000"
        )));
    }
    let max_lost = asked.max_lost.unwrap_or(u32::from(usual.max_lost));
    if max_lost > limits::MAX_LOST {
        return Err(refused(format!("max_lost {max_lost} must be 0 to 100")));
    }
    let total = asked.total_timeout.map(Duration::try_from).transpose();
    let total = total.map_err(|_| refused("total_timeout must not be negative"))?;
    if total.is_some_and(|total| !(limits::MIN_TIMEOUT..=limits::MAX_TOTAL).contains(&total)) {
        return Err(refused("total_timeout must be 1 ms to 10 years"));
    }
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    Ok(RetryPolicy {
        max_attempts: small(max_attempts),
        max_lost: small(max_lost),
        backoff: backoff(asked, usual.backoff)?,
        total,
    })
}

fn backoff(asked: &proto::v1::RetryPolicy, usual: Backoff) -> Result<Backoff, LimitError> {
    let growth = Growth::from_number(asked.growth)
        .ok_or_else(|| refused(format!("growth {} is unknown", asked.growth)))?;
    let multiplier = asked.multiplier.unwrap_or(usual.multiplier);
    if !(1.0..=limits::MAX_MULTIPLIER).contains(&multiplier) {
        return Err(refused(format!("multiplier {multiplier} must be 1 to 100")));
    }
    let wait = |asked: Option<prost_types::Duration>, usual: Duration| match asked {
        None => Ok(usual),
        Some(asked) => Duration::try_from(asked)
            .ok()
            .filter(|wait| *wait <= limits::MAX_BACKOFF)
            .ok_or_else(|| refused("a back-off must be 0 to 24 h")),
    };
    Ok(Backoff {
        growth,
        initial: wait(asked.initial_backoff, usual.initial)?,
        multiplier,
        max: wait(asked.max_backoff, usual.max)?,
        jitter: asked.jitter.unwrap_or(usual.jitter),
    })
}

fn refused(message: impl Into<String>) -> LimitError {
    LimitError::new(FIELD, message)
}
