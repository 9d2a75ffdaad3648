//! What a search for traces asks for.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::duration::parse_micros;
use crate::jaeger::{Span, Tag, TraceId};

const DEFAULT_LIMIT: usize = 100;

/// The parameters of `/api/traces`. A trace is found if one of its spans meets all of them.
#[derive(Debug)]
pub(crate) struct TraceQuery {
    service: String,
    operation: Option<String>,
    tags: HashMap<String, String>,
    /// µs since 1970 at which the span began.
    start_time: RangeInclusive<u64>,
    /// µs.
    duration: RangeInclusive<u64>,
    pub(crate) limit: usize,
}

impl TraceQuery {
    /// # Errors
    /// Says which parameter is missing or can't be read.
    pub(crate) fn parse(parameters: &[(String, String)]) -> Result<Self, String> {
        let mut query = Self {
            service: String::new(),
            operation: None,
            tags: HashMap::new(),
            start_time: 0..=u64::MAX,
            duration: 0..=u64::MAX,
            limit: DEFAULT_LIMIT,
        };
        // A form sends the fields that were left empty too.
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
            let understood = query.apply(name, value);
            understood.ok_or_else(|| format!("parameter '{name}': can't read {value:?}"))?;
        }
        if query.service.is_empty() {
            return Err("parameter 'service' is required".to_owned());
        }
        Ok(query)
    }

    pub(crate) fn matches(&self, span: &Span) -> bool {
        span.process.service_name == self.service
            && self
                .operation
                .as_ref()
                .is_none_or(|operation| span.operation_name == *operation)
            && self.start_time.contains(&span.start_time)
            && self.duration.contains(&span.duration)
            && self
                .tags
                .iter()
                .all(|(key, value)| has_tag(span, key, value))
    }

    /// Parameters that don't narrow the search are passed over, as Jaeger does.
    fn apply(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "service" => self.service = value.to_owned(),
            "operation" => self.operation = Some(value.to_owned()),
            "limit" => self.limit = value.parse().ok()?,
            "start" => self.start_time = value.parse().ok()?..=*self.start_time.end(),
            "end" => self.start_time = *self.start_time.start()..=value.parse().ok()?,
            "minDuration" => self.duration = parse_micros(value)?..=*self.duration.end(),
            "maxDuration" => self.duration = *self.duration.start()..=parse_micros(value)?,
            "tags" => {
                self.tags
                    .extend(serde_json::from_str::<HashMap<String, String>>(value).ok()?);
            }
            "tag" => {
                let (key, value) = value.split_once(':')?;
                self.tags.insert(key.to_owned(), value.to_owned());
            }
            _ => {}
        }
        Some(())
    }
}

/// Reads up to 32 hex digits; leading zeros may be missing.
pub(crate) fn parse_trace_id(text: &str) -> Option<TraceId> {
    let digits_only = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let legal = digits_only && (1..=32).contains(&text.len());
    legal
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}

/// Tags of the span, of its process and of its logs count.
fn has_tag(span: &Span, key: &str, value: &str) -> bool {
    let is_it = |tag: &Tag| tag.key == key && text_of(&tag.value) == value;
    span.tags.iter().any(is_it)
        || span.process.tags.iter().any(is_it)
        || span.logs.iter().any(|log| log.fields.iter().any(is_it))
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(parameters: &[(&str, &str)]) -> Result<TraceQuery, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        TraceQuery::parse(&parameters.iter().map(owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_service_is_required_and_empty_fields_are_passed_over() {
        assert_eq!(parse(&[]).unwrap_err(), "parameter 'service' is required");
        let query = parse(&[
            ("service", "worker"),
            ("minDuration", ""),
            ("lookback", "1h"),
        ]);
        assert_eq!(query.unwrap().duration, 0..=u64::MAX);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let refused = parse(&[("service", "worker"), ("tags", "error=true")]).unwrap_err();
        assert!(refused.starts_with("parameter 'tags'"), "{refused}");
    }

    #[test]
    fn a_trace_id_may_lack_leading_zeros() {
        assert_eq!(parse_trace_id("1f"), Some(0x1f_u128.to_be_bytes()));
        assert_eq!(parse_trace_id(&"f".repeat(32)), Some([0xff; 16]));
        for illegal in ["", "g", "+1", &"0".repeat(33)] {
            assert_eq!(parse_trace_id(illegal), None, "{illegal:?}");
        }
    }
}
