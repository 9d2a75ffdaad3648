//! The two forms of a log line.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;
use tracing::{Level, Metadata};

use crate::log_fields::Fields;

const RFC_3339_MS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const TIME_OF_DAY_MS: StaticFormatDescription =
    format_description!("[hour]:[minute]:[second].[subsecond digits:3]");

/// Who logs.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) service: &'static str,
    pub(crate) instance_id: String,
}

/// One line; the fields are in the order in which they are written. Outside of a trace the ids
/// are null, so that every line has the same shape.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    #[serde(serialize_with = "as_rfc_3339")]
    timestamp: OffsetDateTime,
    level: &'static str,
    service: &'static str,
    instance_id: &'a str,
    trace_id: Option<String>,
    span_id: Option<String>,
    event: String,
    message: String,
    context: Map<String, Value>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(
        identity: &'a Identity,
        metadata: &Metadata<'_>,
        fields: Fields,
        ids: Option<(String, String)>,
    ) -> Self {
        let (trace_id, span_id) = ids.unzip();
        Self {
            timestamp: OffsetDateTime::now_utc(),
            level: level_name(*metadata.level()),
            service: identity.service,
            instance_id: &identity.instance_id,
            trace_id,
            span_id,
            event: fields.event.unwrap_or_else(|| "log".to_owned()),
            message: fields.message.unwrap_or_default(),
            context: fields.context,
        }
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("keys are text, and values come from JSON values")
    }

    /// Time, level, event, message, then the rest as `name=value`.
    pub(crate) fn text(&self, coloured: bool) -> String {
        let (begin, end) = if coloured {
            (colour(self.level), "\x1b[0m")
        } else {
            ("", "")
        };
        let time = self.timestamp.format(TIME_OF_DAY_MS).unwrap_or_default();
        let mut line = format!(
            "{time} {begin}{:5}{end} {} {}",
            self.level, self.event, self.message
        );
        for (name, value) in &self.context {
            // Writing to a string can't fail.
            let _ = match value {
                Value::String(text) if !text.contains(' ') => write!(line, " {name}={text}"),
                value => write!(line, " {name}={value}"),
            };
        }
        if let Some(trace_id) = &self.trace_id {
            let _ = write!(line, " trace_id={trace_id}");
        }
        line
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        // Readers of the log know four levels.
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

fn colour(level: &str) -> &'static str {
    match level {
        "ERROR" => "\x1b[31m",
        "WARN" => "\x1b[33m",
        "INFO" => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

fn as_rfc_3339<S: serde::Serializer>(time: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc_3339(*time))
}

/// UTC with milliseconds, as in `2026-11-22T20:00:00.123Z`.
pub(crate) fn rfc_3339(time: OffsetDateTime) -> String {
    time.format(RFC_3339_MS)
        .expect("every part of the format is a part of the time")
}
