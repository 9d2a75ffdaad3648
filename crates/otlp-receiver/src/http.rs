//! OTLP over HTTP, and Jaeger's query API, on one port.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::grpc::receive;
use crate::jaeger::{Answer, Trace};
use crate::query::{TraceQuery, parse_trace_id};
use crate::receiver::{MAX_REQUEST_BYTES, SharedStore};

const PROTOBUF: &str = "application/x-protobuf";

pub(crate) fn router(store: SharedStore) -> Router {
    Router::new()
        .route("/v1/traces", post(export))
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operations))
        .route("/api/traces", get(search))
        .route("/api/traces/{trace_id}", get(trace))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(store)
}

async fn export(State(store): State<SharedStore>, headers: HeaderMap, body: Bytes) -> Response {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    // Parameters may follow.
    if !content_type.is_some_and(|value| value.starts_with(PROTOBUF)) {
        let answer = format!("expected content-type {PROTOBUF}");
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, answer).into_response();
    }
    match ExportTraceServiceRequest::decode(body) {
        Ok(request) => {
            let answer = receive(&store, request).encode_to_vec();
            ([(header::CONTENT_TYPE, PROTOBUF)], answer).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn services(State(store): State<SharedStore>) -> Json<Answer<String>> {
    Json(Answer::list(store.read().services()))
}

async fn operations(
    State(store): State<SharedStore>,
    Path(service): Path<String>,
) -> Json<Answer<String>> {
    Json(Answer::list(store.read().operations(&service)))
}

async fn search(
    State(store): State<SharedStore>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    match TraceQuery::parse(&parameters) {
        Ok(query) => {
            let found = store.read().search(query.limit, |span| query.matches(span));
            Json(Answer::traces(found)).into_response()
        }
        Err(message) => failure(StatusCode::BAD_REQUEST, message),
    }
}

async fn trace(State(store): State<SharedStore>, Path(trace_id): Path<String>) -> Response {
    let Some(id) = parse_trace_id(&trace_id) else {
        let message = format!("{trace_id:?} is no trace id: expected up to 32 hex digits");
        return failure(StatusCode::BAD_REQUEST, message);
    };
    let found: Option<Trace> = store.read().trace(id);
    match found {
        Some(trace) => Json(Answer::traces(vec![trace])).into_response(),
        None => failure(StatusCode::NOT_FOUND, "trace not found".to_owned()),
    }
}

fn failure(status: StatusCode, message: String) -> Response {
    (status, Json(Answer::failure(status.as_u16(), message))).into_response()
}
