//! What may be sent, and how much of it: checked at the edge, so that nothing that reaches a lane
//! can be refused by the database.

use std::time::Duration;

use crate::Micros;

/// Payload: 1 MiB.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Output: 64 KiB.
pub const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// A checkpoint's state: 256 KiB.
pub const MAX_CHECKPOINT_BYTES: usize = 256 << 10;
/// A progress's note: 255 bytes, cut.
pub const MAX_NOTE_BYTES: usize = 255;
/// Error text: 8 KiB, cut.
pub const MAX_ERROR_BYTES: usize = 8 << 10;
/// An error's class: 128 bytes, cut.
pub const MAX_ERROR_CLASS_BYTES: usize = 128;
/// Items of a batch.
pub const MAX_BATCH_ITEMS: usize = 1_000;
/// Bytes of a batch: 8 MiB.
pub const MAX_BATCH_BYTES: usize = 8 << 20;
/// Executions of one watch.
pub const MAX_WATCHED: usize = 1_000;
/// Labels of an execution.
pub const MAX_LABELS: usize = 16;
/// Headers of an execution.
pub const MAX_HEADERS: usize = 32;
/// Headers' names and values together: 8 KiB.
pub const MAX_HEADER_BYTES: usize = 8 << 10;
/// Attempts of an execution.
pub const MAX_ATTEMPTS: u32 = 1_000;
/// Lost workers that an execution survives.
pub const MAX_LOST: u32 = 100;
/// The multiplier of an exponential back-off.
pub const MAX_MULTIPLIER: f64 = 100.0;
/// An execution's total time: 10 years.
pub const MAX_TOTAL: Duration = MAX_DELAY;
/// An attempt's timeout.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// The least timeout.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// The timeout of an attempt whose submission names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3_600);
/// An idempotency key: 255 bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// How far ahead an execution may be due: 10 years.
pub const MAX_DELAY: Duration = Duration::from_secs(10 * 366 * 24 * 3_600);
/// Executions on a page of a list.
pub const MAX_PAGE: u32 = 500;
/// Executions on a page whose size isn't said.
pub const DEFAULT_PAGE: u32 = 50;
/// The longest back-off, and the longest that a handler may put an attempt off: as far as windows are made ahead.
pub const MAX_BACKOFF: Duration = Duration::from_secs(24 * 3_600);
/// Slots of a worker.
pub const MAX_SLOTS: u32 = 100_000;
/// Job types of a worker.
pub const MAX_WORKER_TYPES: usize = 1_000;

/// A value that is not allowed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {message}")]
pub struct LimitError {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl LimitError {
    /// `field` is wrong because of `message`.
    #[must_use]
    pub fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

fn is_name(text: &str, also: impl Fn(u8) -> bool) -> bool {
    let lead = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let Some((first, rest)) = bytes.split_first() else {
        return false;
    };
    let first_ok = lead(*first) || (also(*first) && first.is_ascii_alphabetic());
    let rest_ok = rest
        .iter()
        .all(|b| lead(*b) || matches!(b, b'.' | b'_' | b'-') || also(*b));
    first_ok && rest_ok && bytes.len() <= 128
}

/// A name of ours: tenants, queues, pools, workers.
///
/// # Errors
/// It is not `[a-z0-9][a-z0-9._-]{0,127}`.
pub fn check_name(field: &'static str, name: &str) -> Result<(), LimitError> {
    if is_name(name, |_| false) {
        return Ok(());
    }
    Err(LimitError::new(
        field,
        format!("{} must be [a-z0-9][a-z0-9._-]{{0,127}}", quoted(name)),
    ))
}

/// A job type's name, as other systems name theirs too.
///
/// # Errors
/// It is not `[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}`.
pub fn check_type_name(field: &'static str, name: &str) -> Result<(), LimitError> {
    if is_name(name, |b| b.is_ascii_uppercase() || matches!(b, b'/' | b':')) {
        return Ok(());
    }
    let message = format!(
        "{} must be [A-Za-z0-9][A-Za-z0-9._/:-]{{0,127}}",
        quoted(name)
    );
    Err(LimitError::new(field, message))
}

/// A caller's correlation id; empty is none.
///
/// # Errors
/// It is longer than 128 or has other characters than `[A-Za-z0-9._:-]`.
pub fn check_correlation_id(id: &str) -> Result<(), LimitError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.len() <= 128 && id.bytes().all(legal) {
        return Ok(());
    }
    let message = format!("{} must be at most 128 of [A-Za-z0-9._:-]", quoted(id));
    Err(LimitError::new("correlation_id", message))
}

/// An idempotency key; empty is none.
///
/// # Errors
/// It is longer than 255 bytes or holds a NUL.
pub fn check_idempotency_key(key: &str) -> Result<(), LimitError> {
    if key.len() <= MAX_KEY_BYTES && !key.contains('\0') {
        return Ok(());
    }
    let message = format!("{} bytes; at most 255 without NUL are allowed", key.len());
    Err(LimitError::new("idempotency_key", message))
}

/// When an execution is due.
///
/// # Errors
/// It lies more than 10 years after `now`.
pub fn check_due(due: Micros, now: Micros) -> Result<(), LimitError> {
    if due <= now.plus(MAX_DELAY) {
        return Ok(());
    }
    Err(LimitError::new(
        "due_at",
        "it lies more than 10 years ahead",
    ))
}

/// A media type; empty is none.
///
/// # Errors
/// It is longer than 127 or not printable ASCII.
pub fn check_content_type(field: &'static str, text: &str) -> Result<(), LimitError> {
    if text.len() <= 127 && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Ok(());
    }
    Err(LimitError::new(
        field,
        "must be at most 127 characters of printable ASCII",
    ))
}

/// An execution's labels.
///
/// # Errors
/// There are more than 16, a name is empty or longer than 63, a value longer than 255 characters, or
/// one holds a NUL.
pub fn check_labels<'a>(
    labels: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Result<(), LimitError> {
    if labels.len() > MAX_LABELS {
        let message = format!("{} labels; at most {MAX_LABELS} are allowed", labels.len());
        return Err(LimitError::new("labels", message));
    }
    for (name, value) in labels {
        if name.is_empty() || name.chars().count() > 63 || name.contains('\0') {
            let message = format!(
                "name {} must be 1 to 63 characters without NUL",
                quoted(name)
            );
            return Err(LimitError::new("labels", message));
        }
        if value.chars().count() > 255 || value.contains('\0') {
            let message = format!(
                "the value of {} must be at most 255 characters without NUL",
                quoted(name)
            );
            return Err(LimitError::new("labels", message));
        }
    }
    Ok(())
}

/// An execution's headers.
///
/// # Errors
/// There are more than 32, they are larger than 8 KiB together, a name is not `[A-Za-z0-9-]{1,64}` or
/// is one of the system's, or a value is not printable ASCII.
pub fn check_headers<'a>(
    headers: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Result<(), LimitError> {
    if headers.len() > MAX_HEADERS {
        let message = format!(
            "{} headers; at most {MAX_HEADERS} are allowed",
            headers.len()
        );
        return Err(LimitError::new("headers", message));
    }
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += name.len() + value.len();
        let legal = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !legal {
            let message = format!("name {} must be [A-Za-z0-9-]{{1,64}}", quoted(name));
            return Err(LimitError::new("headers", message));
        }
        let ours = ["traceparent", "tracestate", "x-correlation-id"];
        if ours.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            let message = format!(
                "{} is the system's own; send it as call metadata or field",
                quoted(name)
            );
            return Err(LimitError::new("headers", message));
        }
        if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            let message = format!("the value of {} must be printable ASCII", quoted(name));
            return Err(LimitError::new("headers", message));
        }
    }
    if bytes > MAX_HEADER_BYTES {
        let message = format!("{bytes} bytes; at most {MAX_HEADER_BYTES} are allowed");
        return Err(LimitError::new("headers", message));
    }
    Ok(())
}

/// Text cut to at most `max` bytes at a character's edge, without NUL, which PostgreSQL can't store.
#[must_use]
pub fn cut_text(text: &str, max: usize) -> String {
    let end = text.floor_char_boundary(max.min(text.len()));
    text[..end].replace('\0', "\u{fffd}")
}

/// A value as an error may show it: short.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        format!("{short:?}…")
    } else {
        format!("{short:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_a_letter_or_digit_and_end_at_128() {
        for good in ["a", "0", "mail.out_1-x", &"q".repeat(128)] {
            assert_eq!(check_name("queue", good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".a",
            "-a",
            "A",
            "a b",
            "a/b",
            "ä",
            "a\0",
            &"q".repeat(129),
        ] {
            assert!(check_name("queue", bad).is_err(), "{bad}");
        }
        assert_eq!(check_type_name("job_type", "App/Mail::Send-v1"), Ok(()));
        assert!(check_type_name("job_type", "/Mail").is_err());
        assert!(check_type_name("job_type", ":Mail").is_err());
    }

    #[test]
    fn the_systems_own_headers_are_refused_in_any_case() {
        let headers = [("TraceParent", "x")];
        let error = check_headers(headers.into_iter()).unwrap_err();
        assert!(error.message.contains("system's own"), "{error}");
    }

    #[test]
    fn cut_text_ends_at_a_character_and_holds_no_nul() {
        assert_eq!(cut_text("aä", 2), "a");
        assert_eq!(cut_text("a\0b", 10), "a\u{fffd}b");
    }
}
