//! What a submission may be. Everything is checked here, so that a scheduler never meets a value
//! that its database refuses.

use std::time::Duration;

use domain::limits::{self, LimitError};
use domain::{ExecutionId, Growth, Micros, Priority};
use prost_types::Timestamp;
use proto::v1::{RetryPolicy, Submission};

use crate::problem::Problem;

/// The queue of a submission that names none.
const DEFAULT_QUEUE: &str = "default";
/// The last second that a timestamp can tell: the end of the year 9999.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// Checks every field and puts the defaults of queue and priority in.
pub(crate) fn check_submission(submission: &mut Submission, now: Micros) -> Result<(), Problem> {
    if submission.queue.is_empty() {
        DEFAULT_QUEUE.clone_into(&mut submission.queue);
    }
    let priority = Priority::from_number(submission.priority).ok_or_else(|| {
        let number = submission.priority;
        Problem::invalid("priority", format!("{number} is none: 0 to 4 are known"))
    })?;
    submission.priority = priority as i32;
    limits::check_type_name("job_type", &submission.job_type)?;
    limits::check_name("queue", &submission.queue)?;
    check_payload(submission.payload.len())?;
    limits::check_content_type("content_type", &submission.content_type)?;
    limits::check_headers(text_pairs(&submission.headers))?;
    limits::check_labels(text_pairs(&submission.labels))?;
    limits::check_correlation_id(&submission.correlation_id)?;
    limits::check_idempotency_key(&submission.idempotency_key)?;
    if let Some(due) = submission.due_at {
        check_due_at(due, now)?;
    }
    if let Some(policy) = &submission.retry_policy {
        check_retry_policy(policy)?;
    }
    let allowed = Allowed {
        least: limits::MIN_TIMEOUT,
        most: limits::MAX_TIMEOUT,
    };
    allowed.check("timeout", submission.timeout)
}

/// The execution whose id this text is.
pub(crate) fn parse_id(text: &str) -> Result<ExecutionId, Problem> {
    text.parse()
        .map_err(|error: domain::ParseIdError| Problem::invalid("execution_id", error.to_string()))
}

fn check_payload(bytes: usize) -> Result<(), Problem> {
    if bytes <= limits::MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    let most = limits::MAX_PAYLOAD_BYTES;
    let message =
        format!("{bytes} bytes; at most {most} are allowed: store it and send its address");
    Err(Problem::invalid("payload", message))
}

/// What is past stays as it was given: it is part of what an idempotency key stands for.
fn check_due_at(given: Timestamp, now: Micros) -> Result<(), Problem> {
    let due = plain_time(given).ok_or_else(|| {
        let (seconds, nanos) = (given.seconds, given.nanos);
        let message = format!(
            "{seconds} s and {nanos} ns since 1970 is no time of the years 1 to 9999 with nanos of 0 to 999999999"
        );
        Problem::invalid("due_at", message)
    })?;
    Ok(limits::check_due(due, now)?)
}

/// `None` for what is not in proto's normal form.
fn plain_time(given: Timestamp) -> Option<Micros> {
    let is_legal = (FIRST_SECOND..=LAST_SECOND).contains(&given.seconds)
        && (0..1_000_000_000).contains(&given.nanos);
    is_legal.then(|| Micros(given.seconds * 1_000_000 + i64::from(given.nanos) / 1_000))
}

fn check_retry_policy(policy: &RetryPolicy) -> Result<(), Problem> {
    if let Some(attempts) = policy.max_attempts
        && !(1..=limits::MAX_ATTEMPTS).contains(&attempts)
    {
        let message = format!("{attempts}; 1 to {} are allowed", limits::MAX_ATTEMPTS);
        return Err(Problem::invalid("retry_policy.max_attempts", message));
    }
    if let Some(multiplier) = policy.multiplier
        && !(1.0..=limits::MAX_MULTIPLIER).contains(&multiplier)
    {
        let message = format!("{multiplier}; 1 to 100 is allowed");
        return Err(Problem::invalid("retry_policy.multiplier", message));
    }
    if Growth::from_number(policy.growth).is_none() {
        let message = format!("{} is none: 0 to 3 are known", policy.growth);
        return Err(Problem::invalid("retry_policy.growth", message));
    }
    if let Some(lost) = policy.max_lost
        && lost > limits::MAX_LOST
    {
        let message = format!("{lost}; 0 to {} are allowed", limits::MAX_LOST);
        return Err(Problem::invalid("retry_policy.max_lost", message));
    }
    let total = Allowed {
        least: limits::MIN_TIMEOUT,
        most: limits::MAX_TOTAL,
    };
    total.check("retry_policy.total_timeout", policy.total_timeout)?;
    let allowed = Allowed {
        least: Duration::ZERO,
        most: limits::MAX_BACKOFF,
    };
    allowed.check("retry_policy.initial_backoff", policy.initial_backoff)?;
    allowed.check("retry_policy.max_backoff", policy.max_backoff)
}

/// The span that a duration must lie in.
struct Allowed {
    least: Duration,
    most: Duration,
}

impl Allowed {
    fn check(
        &self,
        field: &'static str,
        duration: Option<prost_types::Duration>,
    ) -> Result<(), Problem> {
        let Some(given) = duration else { return Ok(()) };
        let span = self.least..=self.most;
        if plain_duration(given).is_some_and(|duration| span.contains(&duration)) {
            return Ok(());
        }
        let (seconds, nanos) = (given.seconds, given.nanos);
        let message = format!(
            "{seconds} s and {nanos} ns; {:?} to {:?} is allowed, with nanos of 0 to 999999999",
            self.least, self.most
        );
        Err(LimitError::new(field, message).into())
    }
}

/// `None` for what is negative or not in proto's normal form.
fn plain_duration(given: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(given.seconds).ok()?;
    let nanos = u32::try_from(given.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

fn text_pairs(
    map: &std::collections::HashMap<String, String>,
) -> impl ExactSizeIterator<Item = (&str, &str)> {
    map.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_790_000_000_000_000);
    const NOW_SECONDS: i64 = 1_790_000_000;

    fn good() -> Submission {
        Submission {
            job_type: "mail.send".to_owned(),
            ..Submission::default()
        }
    }

    fn field_at_fault(change: impl FnOnce(&mut Submission)) -> String {
        let mut submission = good();
        change(&mut submission);
        check_submission(&mut submission, NOW)
            .unwrap_err()
            .field
            .into_owned()
    }

    fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut submission = good();
        check_submission(&mut submission, NOW).unwrap();
        assert_eq!(submission.queue, "default");
        assert_eq!(submission.priority, Priority::Normal as i32);
    }

    #[test]
    fn each_limit_names_its_field() {
        let map = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        assert_eq!(field_at_fault(|s| s.job_type.clear()), "job_type");
        assert_eq!(field_at_fault(|s| s.job_type.push('\0')), "job_type");
        assert_eq!(field_at_fault(|s| s.queue.push_str("A b")), "queue");
        assert_eq!(field_at_fault(|s| s.priority = 17), "priority");
        assert_eq!(
            field_at_fault(|s| s.payload = vec![0; (1 << 20) + 1].into()),
            "payload"
        );
        assert_eq!(
            field_at_fault(|s| s.content_type.push('\0')),
            "content_type"
        );
        assert_eq!(
            field_at_fault(|s| s.headers = map("tracestate", "a=b")),
            "headers"
        );
        assert_eq!(
            field_at_fault(|s| s.headers = map("a", "b\r\nc: d")),
            "headers"
        );
        assert_eq!(field_at_fault(|s| s.labels = map("a", "b\0")), "labels");
        assert_eq!(
            field_at_fault(|s| s.correlation_id.push('/')),
            "correlation_id"
        );
        assert_eq!(
            field_at_fault(|s| s.timeout = seconds(0, 999_999)),
            "timeout"
        );
        assert_eq!(
            field_at_fault(|s| s.timeout = seconds(86_400, 1)),
            "timeout"
        );
        assert_eq!(field_at_fault(|s| s.timeout = seconds(1, -1)), "timeout");
    }

    #[test]
    fn each_limit_of_a_retry_policy_names_its_field() {
        type Change = fn(&mut RetryPolicy);
        let changes: [(&str, Change); 8] = [
            ("max_attempts", |policy| policy.max_attempts = Some(0)),
            ("multiplier", |policy| policy.multiplier = Some(f64::NAN)),
            ("initial_backoff", |policy| {
                policy.initial_backoff = seconds(-1, 0)
            }),
            ("max_backoff", |policy| {
                policy.max_backoff = seconds(86_401, 0)
            }),
            ("growth", |policy| policy.growth = 4),
            ("max_lost", |policy| policy.max_lost = Some(101)),
            ("total_timeout", |policy| {
                policy.total_timeout = seconds(0, 0)
            }),
            ("total_timeout", |policy| {
                policy.total_timeout = seconds(11 * 366 * 86_400, 0)
            }),
        ];
        for (field, change) in changes {
            let mut policy = RetryPolicy::default();
            change(&mut policy);
            let at_fault = field_at_fault(|s| s.retry_policy = Some(policy));
            assert_eq!(at_fault, format!("retry_policy.{field}"));
        }
    }

    #[test]
    fn a_key_has_at_most_255_bytes_and_no_nul() {
        for bad in ["k".repeat(256), "ä".repeat(128), "k\0".to_owned()] {
            assert_eq!(
                field_at_fault(|s| s.idempotency_key = bad),
                "idempotency_key"
            );
        }
    }

    #[test]
    fn a_due_time_is_legal_up_to_ten_years_ahead_and_stays_as_it_was_given() {
        let due_at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        let far = i64::try_from(limits::MAX_DELAY.as_secs()).unwrap() + NOW_SECONDS;
        for bad in [
            due_at(FIRST_SECOND - 1, 0),
            due_at(i64::MIN, 0),
            due_at(NOW_SECONDS, -1),
            due_at(NOW_SECONDS, 1_000_000_000),
            due_at(far, 1_000),
            due_at(LAST_SECOND + 1, 0),
            due_at(i64::MAX, i32::MAX),
        ] {
            assert_eq!(field_at_fault(|s| s.due_at = bad), "due_at", "{bad:?}");
        }
        let past = [
            due_at(FIRST_SECOND, 0),
            due_at(-1, 7),
            due_at(NOW_SECONDS - 1, 7),
        ];
        for good_one in past.into_iter().chain([due_at(far, 0)]) {
            let mut submission = good();
            submission.due_at = good_one;
            check_submission(&mut submission, NOW).unwrap();
            assert_eq!(submission.due_at, good_one);
        }
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let mut submission = good();
        submission.payload = vec![0; 1 << 20].into();
        submission.timeout = seconds(86_400, 0);
        submission.idempotency_key = "k".repeat(255);
        let zero = seconds(0, 0);
        let policy = RetryPolicy {
            initial_backoff: zero,
            ..RetryPolicy::default()
        };
        submission.retry_policy = Some(RetryPolicy {
            max_attempts: Some(1_000),
            ..policy
        });
        check_submission(&mut submission, NOW).unwrap();
    }
}
