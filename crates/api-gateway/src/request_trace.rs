//! Where a call stands in a trace, and where the stories of its executions begin.
//!
//! One execution is one trace. A caller's `traceparent` is continued by everything in the call; its
//! sampled flag keeps the trace, while a flag that isn't set leaves the choice to us. Without one the
//! call begins a trace, which is also that of its execution; in a batch each further item begins
//! a trace of its own, with a sampling decision and an `api_request` span of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use domain::Micros;
use http::HeaderMap;
use proto::internal::v1::RequestOrigin;
use service::{HeadSampler, TraceContext, new_span_id, new_trace_id, parse_tracestate};

/// A trace context's length on the wire.
const WIRE_BYTES: usize = 25;

/// A call's place in a trace.
#[derive(Debug)]
pub(crate) struct RequestTrace {
    /// The trace, and the gateway's span in it.
    pub(crate) context: TraceContext,
    /// The caller's span, if the caller began the trace.
    pub(crate) parent_span_id: Option<[u8; 8]>,
    /// The caller's, if it is legal; else empty.
    pub(crate) tracestate: String,
    /// When the call came.
    pub(crate) received: SystemTime,
    sampler: HeadSampler,
    decoded: AtomicBool,
    items: Mutex<Vec<SampledItem>>,
}

/// An item of a batch whose own trace is kept from its beginning.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SampledItem {
    /// Its place in the batch.
    pub(crate) index: usize,
    /// Its trace, and the gateway's span in it.
    pub(crate) context: TraceContext,
    /// What went wrong with it, if that is the service's fault.
    pub(crate) error: Option<String>,
}

impl RequestTrace {
    /// The place of a call with these headers, which came now.
    pub(crate) fn begin(headers: &HeaderMap, sampler: HeadSampler) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let caller = text("traceparent").and_then(TraceContext::parse);
        let tracestate = caller
            .and_then(|_| text("tracestate"))
            .and_then(parse_tracestate);
        let trace_id = caller.map_or_else(new_trace_id, |caller| caller.trace_id);
        let sampled = caller.is_some_and(|caller| caller.sampled) || sampler.samples(trace_id);
        Self {
            context: TraceContext {
                trace_id,
                span_id: new_span_id(),
                sampled,
            },
            parent_span_id: caller.map(|caller| caller.span_id),
            tracestate: tracestate.unwrap_or_default().to_owned(),
            received: SystemTime::now(),
            sampler,
            decoded: AtomicBool::new(false),
            items: Mutex::default(),
        }
    }

    /// The call's message could be read: what goes wrong from here on isn't its form.
    pub(crate) fn mark_decoded(&self) {
        self.decoded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_decoded(&self) -> bool {
        self.decoded.load(Ordering::Relaxed)
    }

    /// The origin of the one execution of the call.
    pub(crate) fn origin(&self) -> RequestOrigin {
        let parent = self.parent_span_id.as_ref();
        RequestOrigin {
            trace_context: Bytes::copy_from_slice(&self.context.to_wire()),
            parent_span_id: parent.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id)),
            tracestate: self.tracestate.clone(),
            received_unix_us: u64::try_from(Micros::from(self.received).0).unwrap_or(0),
        }
    }

    /// The origins of the executions of a batch, in order.
    pub(crate) fn origins(&self, items: usize) -> Vec<RequestOrigin> {
        let first = self.origin();
        if self.parent_span_id.is_some() {
            return vec![first; items];
        }
        // One piece of memory for all: each origin holds its slice of it.
        let mut wire = Vec::with_capacity(items * WIRE_BYTES);
        wire.extend_from_slice(&first.trace_context);
        for index in 1..items {
            wire.extend_from_slice(&self.begin_item(index).to_wire());
        }
        let wire = Bytes::from(wire);
        let mut origins = vec![first; items];
        for (index, origin) in origins.iter_mut().enumerate() {
            origin.trace_context = wire.slice(index * WIRE_BYTES..(index + 1) * WIRE_BYTES);
        }
        origins
    }

    /// An item of a batch failed by the service's fault.
    pub(crate) fn fail_item(&self, index: usize, error: &str) {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(item) = items.iter_mut().find(|item| item.index == index) {
            item.error = Some(error.to_owned());
        }
    }

    /// The items whose traces are kept from their beginning, beside the call's own.
    pub(crate) fn take_sampled_items(&self) -> Vec<SampledItem> {
        std::mem::take(&mut self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin_item(&self, index: usize) -> TraceContext {
        let trace_id = new_trace_id();
        let sampled = self.sampler.samples(trace_id);
        let context = TraceContext {
            trace_id,
            span_id: new_span_id(),
            sampled,
        };
        if sampled {
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            items.push(SampledItem {
                index,
                context,
                error: None,
            });
        }
        context
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &'static str)| {
            (
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(parse).collect()
    }

    #[test]
    fn a_callers_trace_is_continued_and_its_flag_keeps_it() {
        let headers = headers(&[("traceparent", TRACEPARENT), ("tracestate", "a=b")]);
        let trace = RequestTrace::begin(&headers, HeadSampler::new(0.0));
        let caller = TraceContext::parse(TRACEPARENT).unwrap();
        assert_eq!(trace.context.trace_id, caller.trace_id);
        assert_ne!(trace.context.span_id, caller.span_id);
        assert!(trace.context.sampled);
        let origin = trace.origin();
        assert_eq!(
            TraceContext::from_wire(&origin.trace_context),
            Some(trace.context)
        );
        assert_eq!(origin.parent_span_id.as_ref(), caller.span_id);
        assert_eq!(origin.tracestate, "a=b");
        assert_eq!(trace.origins(3), vec![origin; 3]);
    }

    #[test]
    fn a_callers_unset_flag_is_no_veto() {
        let unset = TRACEPARENT.replace("-01", "-00").leak();
        let trace = RequestTrace::begin(&headers(&[("traceparent", unset)]), HeadSampler::new(1.0));
        assert!(trace.context.sampled);
    }

    #[test]
    fn an_illegal_traceparent_begins_a_trace_without_the_callers_state() {
        let headers = headers(&[("traceparent", "00-xyz"), ("tracestate", "a=b")]);
        let trace = RequestTrace::begin(&headers, HeadSampler::new(0.0));
        assert_eq!(trace.parent_span_id, None);
        assert_eq!(trace.tracestate, "");
        assert!(!trace.context.sampled);
    }

    #[test]
    fn in_a_batch_without_a_caller_each_item_has_a_trace_of_its_own() {
        let trace = RequestTrace::begin(&HeaderMap::new(), HeadSampler::new(1.0));
        let origins = trace.origins(4);
        let ids: HashSet<_> = origins
            .iter()
            .map(|origin| origin.trace_context.clone())
            .collect();
        assert_eq!(ids.len(), 4);
        assert_eq!(origins[0], trace.origin());
        trace.fail_item(2, "no owner");
        let sampled = trace.take_sampled_items();
        assert_eq!(
            sampled.iter().map(|item| item.index).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert_eq!(sampled[1].error.as_deref(), Some("no owner"));
        let wire = &origins[3].trace_context;
        assert_eq!(TraceContext::from_wire(wire), Some(sampled[2].context));
    }
}
