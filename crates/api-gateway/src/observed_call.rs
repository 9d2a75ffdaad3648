//! One call, from its arrival to the end of its answer: its metrics, its span, its log line.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use service::{KeyValue, SpanKind, SpanRecord, SpanSink, TraceContext};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::endpoints::Endpoint;
use crate::metrics::{CallMetrics, code_name, is_server_fault};
use crate::request_trace::RequestTrace;

/// A caller counts its time from before the call arrived here, and may hang up by itself when it is over.
const NEARLY: f64 = 0.9;

/// Where calls are told of.
pub(crate) struct Observer {
    pub(crate) metrics: CallMetrics,
    pub(crate) spans: SpanSink,
}

/// A call under way. Dropped before its end, it counts as cancelled by its caller, or as one whose deadline
/// has passed.
pub(crate) struct ObservedCall {
    observer: Arc<Observer>,
    endpoint: Endpoint,
    trace: Arc<RequestTrace>,
    began: Instant,
    /// How long its caller waits; `None`: for ever.
    patience: Option<Duration>,
    is_admitted: bool,
    is_timed: bool,
    is_over: bool,
}

impl ObservedCall {
    pub(crate) fn begin(
        observer: Arc<Observer>,
        endpoint: Endpoint,
        trace: Arc<RequestTrace>,
        patience: Option<Duration>,
    ) -> Self {
        let began = Instant::now();
        let (is_admitted, is_timed, is_over) = (false, false, false);
        Self {
            observer,
            endpoint,
            trace,
            began,
            patience,
            is_admitted,
            is_timed,
            is_over,
        }
    }

    /// Its caller has the right to it. Only such calls make spans: nobody without a key can fill
    /// the trace store.
    pub(crate) fn admit(&mut self) {
        self.is_admitted = true;
    }

    /// The first message of the answer is there, or it ended without one. A watch counts until
    /// here: its whole length is its caller's choice.
    fn first_message(&mut self) {
        if !std::mem::replace(&mut self.is_timed, true) {
            self.observer
                .metrics
                .observe(self.endpoint, self.began.elapsed());
        }
    }

    /// The answer ended.
    fn end(&mut self, code: Code, message: &str) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.first_message();
        self.observer.metrics.count(self.endpoint, code);
        let (endpoint, status) = (self.endpoint.label(), code_name(code));
        // The answer's body ends outside of the call's own scope.
        self.trace.context.enter(|| {
            tracing::debug!(
                event = "call_ended",
                endpoint,
                status,
                message,
                "call ended"
            );
        });
        if self.is_admitted && self.observer.spans.is_enabled() {
            self.emit_spans(code, message);
        }
    }

    /// The end that these headers or trailers tell, if they do.
    fn end_by(&mut self, headers: &HeaderMap) {
        match headers
            .get(Status::GRPC_STATUS)
            .map(|code| Code::from_bytes(code.as_bytes()))
        {
            Some(Code::Ok) => self.end(Code::Ok, ""),
            Some(code) => {
                let status = Status::from_header_map(headers);
                self.end(code, status.as_ref().map_or("", Status::message));
            }
            None => {}
        }
    }

    fn emit_spans(&self, code: Code, message: &str) {
        let end = SystemTime::now();
        let error = is_server_fault(code).then(|| message.to_owned());
        if self.trace.context.sampled {
            self.observer
                .spans
                .emit(self.span(self.trace.context, code, end, error.clone()));
        }
        for item in self.trace.take_sampled_items() {
            let mut span = self.span(item.context, code, end, item.error.or(error.clone()));
            let index = i64::try_from(item.index).unwrap_or(i64::MAX);
            span.attributes.push(KeyValue::new("batch_index", index));
            self.observer.spans.emit(span);
        }
    }

    fn span(
        &self,
        context: TraceContext,
        code: Code,
        end: SystemTime,
        error: Option<String>,
    ) -> SpanRecord {
        let (service, method) = self.endpoint.service_and_method();
        SpanRecord {
            name: "api_request",
            kind: SpanKind::Server,
            trace_id: context.trace_id,
            span_id: context.span_id,
            parent_span_id: self.trace.parent_span_id,
            parent_is_remote: self.trace.parent_span_id.is_some(),
            start: self.trace.received,
            end,
            attributes: vec![
                KeyValue::new("method", "GRPC"),
                KeyValue::new("endpoint", self.endpoint.label()),
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service),
                KeyValue::new("rpc.method", method),
                KeyValue::new("rpc.grpc.status_code", code as i64),
            ],
            links: Vec::new(),
            error,
            tracestate: self.trace.tracestate.clone(),
        }
    }
}

impl Drop for ObservedCall {
    fn drop(&mut self) {
        match self.patience {
            Some(patience) if self.began.elapsed() >= patience.mul_f64(NEARLY) => {
                self.end(Code::DeadlineExceeded, "the caller's deadline has passed");
            }
            _ => self.end(Code::Cancelled, "the caller went away"),
        }
    }
}

/// How long the caller waits for its answer, as its `grpc-timeout` header says: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). The server ends the call then, whatever
/// it is doing.
pub(crate) fn caller_patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// An answer's body that tells its call how it went.
pub(crate) struct ObservedBody {
    body: Body,
    call: ObservedCall,
}

impl ObservedBody {
    /// Lets `call` end with this answer.
    pub(crate) fn wrap(
        mut call: ObservedCall,
        answer: http::Response<Body>,
    ) -> http::Response<Self> {
        // An answer that is an error alone says so in its headers.
        call.end_by(answer.headers());
        answer.map(|body| Self { body, call })
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let call = &mut self.call;
        match &frame {
            Some(Ok(frame)) => match frame.trailers_ref() {
                Some(trailers) => call.end_by(trailers),
                None => call.first_message(),
            },
            Some(Err(status)) => call.end(status.code(), status.message()),
            None => call.end(Code::Unknown, "the answer ended without a status"),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use service::HeadSampler;

    use super::*;

    fn call(registry: &Registry) -> ObservedCall {
        let metrics = CallMetrics::new(registry).unwrap();
        let observer = Arc::new(Observer {
            metrics,
            spans: SpanSink::disabled(),
        });
        let trace = RequestTrace::begin(&HeaderMap::new(), HeadSampler::new(1.0));
        ObservedCall::begin(observer, Endpoint::Submit, Arc::new(trace), None)
    }

    fn count(registry: &Registry, code: &str) -> f64 {
        let families = registry.gather();
        let requests = families
            .iter()
            .find(|family| family.name() == "api_requests_total");
        let is_it = |metric: &&prometheus::proto::Metric| {
            let labels: Vec<_> = metric
                .get_label()
                .iter()
                .map(|label| label.value())
                .collect();
            labels.contains(&code) && labels.contains(&Endpoint::Submit.label())
        };
        requests
            .unwrap()
            .get_metric()
            .iter()
            .find(is_it)
            .unwrap()
            .get_counter()
            .get_value()
    }

    #[test]
    fn a_call_that_is_dropped_counts_as_cancelled_and_once_only() {
        let registry = Registry::new();
        drop(call(&registry));
        assert_eq!(count(&registry, "CANCELLED"), 1.0);
        assert_eq!(count(&registry, "OK"), 0.0);
    }

    #[test]
    fn a_call_that_is_dropped_at_its_deadline_says_so() {
        let registry = Registry::new();
        let mut call = call(&registry);
        call.patience = Some(Duration::ZERO);
        drop(call);
        assert_eq!(count(&registry, "DEADLINE_EXCEEDED"), 1.0);
        assert_eq!(count(&registry, "CANCELLED"), 0.0);
    }

    #[test]
    fn a_callers_patience_is_read_as_grpc_writes_it() {
        let patience = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            caller_patience(&headers)
        };
        assert_eq!(patience("20S"), Some(Duration::from_secs(20)));
        assert_eq!(patience("1H"), Some(Duration::from_hours(1)));
        assert_eq!(patience("2M"), Some(Duration::from_mins(2)));
        assert_eq!(patience("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            patience("99999999u"),
            Some(Duration::from_micros(99_999_999))
        );
        assert_eq!(patience("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "S", "5", "-5S", "123456789S", "5s"] {
            assert_eq!(patience(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_error_alone_ends_the_call_by_its_headers() {
        let registry = Registry::new();
        let answer = Status::not_found("no such").into_http();
        drop(ObservedBody::wrap(call(&registry), answer));
        assert_eq!(count(&registry, "NOT_FOUND"), 1.0);
        assert_eq!(count(&registry, "CANCELLED"), 0.0);
    }

    #[test]
    fn a_span_tells_method_endpoint_and_whose_fault_it_was() {
        let call = call(&Registry::new());
        let end = SystemTime::now();
        let span = call.span(call.trace.context, Code::Ok, end, None);
        assert_eq!(
            (span.name, span.kind.clone()),
            ("api_request", SpanKind::Server)
        );
        assert!(
            span.attributes
                .contains(&KeyValue::new("endpoint", Endpoint::Submit.label()))
        );
        assert!(
            span.attributes
                .contains(&KeyValue::new("rpc.method", "Submit"))
        );
        assert_eq!(span.parent_span_id, None);
        assert!(is_server_fault(Code::Unavailable) && !is_server_fault(Code::InvalidArgument));
    }
}
