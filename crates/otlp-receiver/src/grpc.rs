//! OTLP over gRPC.

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceService;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::{Request, Response, Status};

use crate::receiver::SharedStore;
use crate::translate::translate;

/// Puts what it receives into the store.
pub(crate) struct TraceReceiver {
    pub(crate) store: SharedStore,
}

#[tonic::async_trait]
impl TraceService for TraceReceiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(receive(&self.store, request.into_inner())))
    }
}

/// Stores the spans of a request, however it came; the answer counts those without legal ids.
pub(crate) fn receive(
    store: &SharedStore,
    request: ExportTraceServiceRequest,
) -> ExportTraceServiceResponse {
    let translated = translate(request.resource_spans);
    store.write().insert(translated.spans);
    let partial_success = (translated.rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: translated.rejected as i64,
        error_message: "trace id or span id is missing, of the wrong length, or zero".to_owned(),
    });
    ExportTraceServiceResponse { partial_success }
}
