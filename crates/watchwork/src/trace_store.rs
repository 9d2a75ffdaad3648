//! Looking traces up in whatever answers Jaeger's query API.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// A trace, as Jaeger tells it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// 32 hex digits.
    #[serde(rename = "traceID")]
    pub trace_id: String,
    /// In no certain order; the same span may come twice.
    pub spans: Vec<Span>,
    /// Who made the spans, by `Span::process_id`.
    #[serde(default)]
    pub processes: BTreeMap<String, Process>,
}

/// One span.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// 16 hex digits.
    #[serde(rename = "spanID")]
    pub span_id: String,
    /// What it did.
    pub operation_name: String,
    /// Its parent and its links.
    #[serde(default)]
    pub references: Vec<Reference>,
    /// µs since 1970.
    pub start_time: u64,
    /// µs.
    pub duration: u64,
    /// Facts about it.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// The key into `Trace::processes`.
    #[serde(rename = "processID")]
    pub process_id: String,
}

/// Another span that a span has to do with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// `CHILD_OF` or `FOLLOWS_FROM`.
    pub ref_type: String,
    /// The other span's trace.
    #[serde(rename = "traceID")]
    pub trace_id: String,
    /// The other span.
    #[serde(rename = "spanID")]
    pub span_id: String,
}

/// A fact about a span.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Tag {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Value,
}

/// Who made spans.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// `service.name`.
    pub service_name: String,
}

impl Span {
    /// The parent's span id, if it has one in this trace.
    #[must_use]
    pub fn parent_id(&self) -> Option<&str> {
        let parent = self
            .references
            .iter()
            .find(|reference| reference.ref_type == "CHILD_OF");
        parent.map(|parent| parent.span_id.as_str())
    }

    /// A tag's value as text.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<String> {
        let tag = self.tags.iter().find(|tag| tag.key == key)?;
        Some(match &tag.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// Whether it says that it went wrong.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.tag("error").as_deref() == Some("true")
            || self.tag("otel.status_code").as_deref() == Some("ERROR")
    }
}

impl Trace {
    /// Whether the trace tells everything about an execution with so many finished attempts: how it
    /// came, each attempt, and no gap between them.
    #[must_use]
    pub fn is_whole(&self, attempts: usize) -> bool {
        let ids: HashSet<&str> = self
            .spans
            .iter()
            .map(|span| span.span_id.as_str())
            .collect();
        let named = |name: &str| {
            let named = self.spans.iter().filter(|span| span.operation_name == name);
            named
                .map(|span| span.span_id.as_str())
                .collect::<HashSet<_>>()
                .len()
        };
        // The caller of the API may have a span of its own in another store.
        let is_connected = |span: &Span| {
            let parent = span.parent_id();
            span.operation_name == "api_request" || parent.is_none_or(|id| ids.contains(id))
        };
        named("api_request") > 0
            && named("task_execution") >= attempts
            && self.spans.iter().all(is_connected)
    }
}

/// Where traces are looked up.
#[derive(Clone, Debug)]
pub struct TraceStore {
    http: reqwest::Client,
    base: Url,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    data: Option<Vec<Trace>>,
}

impl TraceStore {
    /// The store whose query API has this base URL, such as `http://jaeger:16686`.
    ///
    /// # Errors
    /// It is no URL.
    pub fn new(base: &str) -> Result<Self, String> {
        let illegal = |error: &dyn std::fmt::Display| {
            format!("{base:?} is no base URL such as http://jaeger:16686: {error}")
        };
        let parsed = Url::parse(base).map_err(|error| illegal(&error))?;
        if parsed.scheme() != "http" {
            return Err(illegal(&"it must begin with http:// (TLS isn't built in)"));
        }
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build();
        Ok(Self {
            http: http.map_err(|error| illegal(&error))?,
            base: parsed,
        })
    }

    /// One trace, as much of it as has arrived; `None` if nothing has.
    ///
    /// # Errors
    /// The store can't be asked, or doesn't answer as Jaeger does.
    pub async fn find(&self, trace_id: &str) -> Result<Option<Trace>, String> {
        let url = format!(
            "{}/api/traces/{trace_id}",
            self.base.as_str().trim_end_matches('/')
        );
        let failed = |error: reqwest::Error| format!("can't read the trace from {url}: {error}");
        let answer = self.http.get(&url).send().await.map_err(failed)?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = answer.error_for_status().map_err(failed)?;
        let answer: Answer = answer.json().await.map_err(failed)?;
        let traces = answer.data.unwrap_or_default();
        Ok(traces.into_iter().find(|trace| !trace.spans.is_empty()))
    }

    /// One trace, once it is whole (see [`Trace::is_whole`]) or `patience` is over: spans arrive a
    /// moment after what they tell of.
    ///
    /// # Errors
    /// As [`TraceStore::find`].
    pub async fn wait_for(
        &self,
        trace_id: &str,
        attempts: usize,
        patience: Duration,
    ) -> Result<Option<Trace>, String> {
        let deadline = Instant::now() + patience;
        loop {
            let found = self.find(trace_id).await?;
            let is_whole = found.as_ref().is_some_and(|trace| trace.is_whole(attempts));
            if is_whole || Instant::now() >= deadline {
                return Ok(found);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
