//! What is counted of each call, with every handle resolved beforehand.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};
use service::seconds_buckets;
use tonic::Code;

use crate::endpoints::Endpoint;

const CODES: usize = 17;
const METHOD: &str = "GRPC";

/// The calls' counters and histograms.
pub(crate) struct CallMetrics {
    /// By endpoint and code.
    requests: Vec<[IntCounter; CODES]>,
    /// By endpoint.
    durations: Vec<Histogram>,
}

impl CallMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "api_requests_total",
            "Calls that ended, by their gRPC status.",
        );
        let requests = IntCounterVec::new(opts, &["method", "endpoint", "status_code"])?;
        let opts = HistogramOpts::new(
            "api_request_duration_seconds",
            "From a call's arrival to the first message of its answer, or to its end without one.",
        );
        let opts = opts.buckets(seconds_buckets());
        let durations = HistogramVec::new(opts, &["method", "endpoint"])?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        let counters = |endpoint: Endpoint| {
            std::array::from_fn(|code| {
                let code = code_name(Code::from_i32(code as i32));
                requests.with_label_values(&[METHOD, endpoint.label(), code])
            })
        };
        let histogram =
            |endpoint: Endpoint| durations.with_label_values(&[METHOD, endpoint.label()]);
        Ok(Self {
            requests: Endpoint::ALL.into_iter().map(counters).collect(),
            durations: Endpoint::ALL.into_iter().map(histogram).collect(),
        })
    }

    /// A call ended.
    pub(crate) fn count(&self, endpoint: Endpoint, code: Code) {
        self.requests[endpoint as usize][code as usize].inc();
    }

    /// The first message of its answer was ready.
    pub(crate) fn observe(&self, endpoint: Endpoint, duration: Duration) {
        self.durations[endpoint as usize].observe(duration.as_secs_f64());
    }
}

/// The code's name, as gRPC spells it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether the code is the service's fault and not its caller's.
pub(crate) fn is_server_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
