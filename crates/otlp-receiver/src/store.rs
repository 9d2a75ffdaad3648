//! The spans in memory: the newest, each once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::jaeger::{Span, SpanId, Trace, TraceId};

/// Holds up to `capacity` spans; past that, those that came first go.
pub(crate) struct SpanStore {
    capacity: usize,
    traces: HashMap<TraceId, HashMap<SpanId, Arc<Span>>>,
    by_arrival: VecDeque<(TraceId, SpanId)>,
}

impl SpanStore {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            traces: HashMap::new(),
            by_arrival: VecDeque::new(),
        }
    }

    /// Takes spans in. A span that is known already is replaced: it was emitted twice.
    pub(crate) fn insert(&mut self, spans: impl IntoIterator<Item = Arc<Span>>) {
        for span in spans {
            let (trace_id, span_id) = (span.trace_id, span.span_id);
            let known = self
                .traces
                .entry(trace_id)
                .or_default()
                .insert(span_id, span);
            if known.is_none() {
                self.by_arrival.push_back((trace_id, span_id));
                self.evict();
            }
        }
    }

    /// A trace with all its spans.
    pub(crate) fn trace(&self, trace_id: TraceId) -> Option<Trace> {
        self.traces
            .get(&trace_id)
            .map(|spans| whole(trace_id, spans))
    }

    /// The traces with a span that `matches`, the newest first, at most `limit`.
    pub(crate) fn search(&self, limit: usize, matches: impl Fn(&Span) -> bool) -> Vec<Trace> {
        let mut found: Vec<_> = self
            .traces
            .iter()
            .filter(|(_, spans)| spans.values().any(|span| matches(span)))
            .collect();
        found.sort_by_cached_key(|(_, spans)| {
            std::cmp::Reverse(spans.values().map(|span| span.start_time).min())
        });
        found.truncate(limit);
        found
            .into_iter()
            .map(|(trace_id, spans)| whole(*trace_id, spans))
            .collect()
    }

    /// The names of all services, sorted.
    pub(crate) fn services(&self) -> Vec<String> {
        let names: BTreeSet<&str> = self
            .spans()
            .map(|span| span.process.service_name.as_str())
            .collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// The names of all operations of a service, sorted.
    pub(crate) fn operations(&self, service: &str) -> Vec<String> {
        let names: BTreeSet<&str> = self
            .spans()
            .filter(|span| span.process.service_name == service)
            .map(|span| span.operation_name.as_str())
            .collect();
        names.into_iter().map(str::to_owned).collect()
    }

    fn spans(&self) -> impl Iterator<Item = &Arc<Span>> {
        self.traces.values().flat_map(HashMap::values)
    }

    fn evict(&mut self) {
        while self.by_arrival.len() > self.capacity {
            let Some((trace_id, span_id)) = self.by_arrival.pop_front() else {
                return;
            };
            if let Some(spans) = self.traces.get_mut(&trace_id) {
                spans.remove(&span_id);
                if spans.is_empty() {
                    self.traces.remove(&trace_id);
                }
            }
        }
    }
}

fn whole(trace_id: TraceId, spans: &HashMap<SpanId, Arc<Span>>) -> Trace {
    Trace::new(trace_id, spans.values().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jaeger::Process;

    fn span(trace: u8, span: u8, operation: &str) -> Arc<Span> {
        let process = Process {
            service_name: "worker".to_owned(),
            tags: Vec::new(),
        };
        Arc::new(Span {
            trace_id: [trace; 16],
            span_id: [span; 8],
            flags: 1,
            operation_name: operation.to_owned(),
            references: Vec::new(),
            start_time: u64::from(span),
            duration: 1,
            tags: Vec::new(),
            logs: Vec::new(),
            process: Arc::new(process),
        })
    }

    #[test]
    fn past_its_capacity_the_first_spans_go_and_empty_traces_with_them() {
        let mut store = SpanStore::new(2);
        store.insert([span(1, 1, "a"), span(2, 2, "b"), span(2, 3, "c")]);
        assert!(store.trace([1; 16]).is_none());
        assert_eq!(store.operations("worker"), ["b", "c"]);
        assert_eq!(store.traces.len(), 1);
    }

    #[test]
    fn a_span_emitted_twice_is_one_span_and_takes_one_place() {
        let mut store = SpanStore::new(2);
        store.insert([
            span(1, 1, "rebuilt"),
            span(1, 1, "live"),
            span(2, 2, "other"),
        ]);
        assert_eq!(store.operations("worker"), ["live", "other"]);
        assert_eq!(store.search(9, |span| span.trace_id == [1; 16]).len(), 1);
    }

    #[test]
    fn a_search_gives_the_newest_traces_first() {
        let mut store = SpanStore::new(9);
        store.insert([span(1, 5, "a"), span(2, 9, "a"), span(3, 7, "a")]);
        let found = serde_json::to_value(store.search(2, |_| true)).unwrap();
        assert_eq!(found.as_array().unwrap().len(), 2);
        assert_eq!(found[0]["spans"][0]["startTime"], 9);
        assert_eq!(found[1]["spans"][0]["startTime"], 7);
    }
}
