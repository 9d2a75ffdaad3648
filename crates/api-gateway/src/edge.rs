//! What every call passes before it reaches its handler: observed, admitted, then served.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use proto::v1::execution_service_server::ExecutionServiceServer;
use proto::v1::fleet_service_server::FleetServiceServer;
use service::HeadSampler;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tower::util::BoxCloneSyncService;

use crate::endpoints::{Access, Endpoint};
use crate::executions::Executions;
use crate::fleet::Fleet;
use crate::keys::{Keys, Principal};
use crate::metered_body::MeteredBody;
use crate::observed_call::{ObservedBody, ObservedCall, Observer, caller_patience};
use crate::problem::Problem;
use crate::request_trace::RequestTrace;
use crate::room::Room;

/// The header that tells a caller the trace of its call.
const TRACE_ID_HEADER: &str = "x-trace-id";

/// The health service, whatever its type.
pub(crate) type HealthService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The service that serves all calls.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Parts>);

/// What the edge is made of.
pub(crate) struct Parts {
    pub(crate) executions: ExecutionServiceServer<Executions>,
    pub(crate) fleet: FleetServiceServer<Fleet>,
    pub(crate) health: HealthService,
    pub(crate) keys: Keys,
    pub(crate) room: Arc<Room>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) sampler: HeadSampler,
}

/// What the handlers know of a call beside its message.
#[derive(Clone)]
pub(crate) struct Admitted {
    pub(crate) principal: Principal,
    pub(crate) trace: Arc<RequestTrace>,
}

impl Edge {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Service<Request<Body>> for Edge {
    type Response = Response<ObservedBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let parts = Arc::clone(&self.0);
        let endpoint = Endpoint::of(request.uri().path());
        let trace = Arc::new(RequestTrace::begin(request.headers(), parts.sampler));
        let patience = caller_patience(request.headers());
        let observer = Arc::clone(&parts.observer);
        let mut call = ObservedCall::begin(observer, endpoint, Arc::clone(&trace), patience);
        let context = trace.context;
        let served = async move {
            let serving = parts.serve(&mut call, &trace, request);
            let answer = match patience {
                None => serving.await,
                Some(patience) => timeout(patience, serving)
                    .await
                    .unwrap_or_else(|_| deadline_exceeded(endpoint, patience, &trace)),
            };
            Ok(ObservedBody::wrap(call, answer))
        };
        Box::pin(context.scope(served))
    }
}

impl Parts {
    async fn serve(
        &self,
        call: &mut ObservedCall,
        trace: &Arc<RequestTrace>,
        request: Request<Body>,
    ) -> Response<Body> {
        let endpoint = Endpoint::of(request.uri().path());
        match endpoint.access() {
            Access::Everybody => self.serve_health(request).await,
            Access::Nobody => unknown_method(request.uri().path())
                .into_status()
                .into_http(),
            Access::Scope(scope) => match self.keys.admit(request.headers(), scope).await {
                Ok(principal) => {
                    call.admit();
                    let trace = Arc::clone(trace);
                    let admitted = Admitted { principal, trace };
                    self.serve_admitted(endpoint, admitted, request).await
                }
                Err(problem) => with_trace_id(problem.into_status().into_http(), trace),
            },
        }
    }

    async fn serve_health(&self, request: Request<Body>) -> Response<Body> {
        let Ok(answer) = self.health.clone().call(request).await;
        answer
    }

    async fn serve_admitted(
        &self,
        endpoint: Endpoint,
        admitted: Admitted,
        request: Request<Body>,
    ) -> Response<Body> {
        let trace = Arc::clone(&admitted.trace);
        // Held until the call is over: what was made of the body is in memory until then.
        let share = self.room.share_of(admitted.principal.tenant);
        let metered = |body| Body::new(MeteredBody::new(body, Arc::clone(&share)));
        let mut request = request.map(metered);
        request.extensions_mut().insert(admitted);
        let Ok(answer) = match endpoint {
            Endpoint::ListWorkers | Endpoint::DrainWorker => self.fleet.clone().call(request).await,
            _ => self.executions.clone().call(request).await,
        };
        let answer = match refused_form(&answer, &trace) {
            Some(problem) => problem.into_status().into_http(),
            None => answer,
        };
        with_trace_id(answer, &trace)
    }
}

/// A message that can't be read, or is too large, is its sender's fault. The generated code calls it
/// INTERNAL or OUT_OF_RANGE, which would count as ours.
fn refused_form(answer: &Response<Body>, trace: &RequestTrace) -> Option<Problem> {
    if trace.is_decoded() {
        return None;
    }
    let status = Status::from_header_map(answer.headers())?;
    let is_form = matches!(status.code(), Code::Internal | Code::OutOfRange);
    let what = match status.code() {
        Code::OutOfRange => "the message is too large, send less at a time",
        _ => "the message can't be read",
    };
    let message = format!("{what}: {}", status.message());
    is_form.then(|| Problem::new(Code::InvalidArgument, "MALFORMED_MESSAGE", message))
}

/// Whose call it is, and its message. A call that didn't pass the edge is nobody's.
pub(crate) fn admitted<T>(mut request: tonic::Request<T>) -> Result<(Admitted, T), Status> {
    let admitted = request
        .extensions_mut()
        .remove::<Admitted>()
        .ok_or_else(|| {
            Problem::new(
                Code::Unauthenticated,
                "API_KEY_MISSING",
                "the call has no principal",
            )
        })?;
    admitted.trace.mark_decoded();
    Ok((admitted, request.into_inner()))
}

fn with_trace_id(mut answer: Response<Body>, trace: &RequestTrace) -> Response<Body> {
    let id = HeaderValue::try_from(trace.context.trace_id_hex()).expect("hex digits are legal");
    answer.headers_mut().insert(TRACE_ID_HEADER, id);
    answer
}

/// The server ends a call at its deadline as well, a moment later, and says that somebody has cancelled it.
fn deadline_exceeded(
    endpoint: Endpoint,
    patience: Duration,
    trace: &RequestTrace,
) -> Response<Body> {
    let what = match endpoint {
        Endpoint::Submit | Endpoint::SubmitBatch => {
            "; what was handed in may or may not have been taken: with an idempotency key it can be submitted again, \
             and is taken once"
        }
        Endpoint::CancelExecution
        | Endpoint::RetryExecution
        | Endpoint::DiscardExecution
        | Endpoint::DrainWorker => "; it may have been done all the same",
        _ => "",
    };
    let message = format!("there was no answer within the call's deadline of {patience:?}{what}");
    let problem = Problem::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message);
    with_trace_id(problem.into_status().into_http(), trace)
}

fn unknown_method(path: &str) -> Problem {
    Problem::new(
        Code::Unimplemented,
        "UNKNOWN_METHOD",
        format!("there is no method {path}"),
    )
}
