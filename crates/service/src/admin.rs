//! The admin port: health for probes and people, metrics for Prometheus.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Registry, TextEncoder};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::net::TcpListener;

use crate::log_line::rfc_3339;
use crate::process_metrics::VERSION;
use crate::readiness::{Component, Condition, Readiness, State};

const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    registry: Registry,
    started: Instant,
}

/// Serves the admin port until the runtime ends, so that a drain can be watched too. Returns the
/// address it listens on.
///
/// # Errors
/// If `address` can't be bound.
pub(crate) async fn start(
    address: SocketAddr,
    readiness: Readiness,
    registry: Registry,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on the admin address {address} (METRICS_ADDR)"))?;
    let address = listener.local_addr()?;
    let admin = Admin {
        readiness,
        registry,
        started: Instant::now(),
    };
    let router = Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(admin);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn live() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

async fn ready(Shared(admin): Shared<Admin>) -> Response {
    match admin.readiness.check() {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(reason) => {
            let answer = Json(json!({ "status": "not_ready", "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, answer).into_response()
        }
    }
}

async fn status(Shared(admin): Shared<Admin>) -> Json<Value> {
    let state = admin.readiness.watch().borrow().clone();
    let components: Map<String, Value> = state
        .components
        .iter()
        .map(|(name, component)| ((*name).to_owned(), describe(component)))
        .collect();
    Json(json!({
        "status": overall(&state),
        "timestamp": rfc_3339(OffsetDateTime::now_utc()),
        "components": components,
        "version": VERSION,
        "uptime_seconds": admin.started.elapsed().as_secs(),
    }))
}

fn overall(state: &State) -> &'static str {
    let any = |condition: fn(&Condition) -> bool| {
        state
            .components
            .values()
            .any(|component| condition(&component.condition))
    };
    if state.draining {
        "DRAINING"
    } else if state.is_starting() {
        "STARTING"
    } else if any(|condition| matches!(condition, Condition::Unhealthy(_))) {
        "UNHEALTHY"
    } else if any(|condition| matches!(condition, Condition::Degraded(_))) {
        "DEGRADED"
    } else {
        "HEALTHY"
    }
}

fn describe(component: &Component) -> Value {
    let (status, reason) = match &component.condition {
        Condition::Unknown => ("UNKNOWN", None),
        Condition::Healthy => ("HEALTHY", None),
        Condition::Degraded(reason) => ("DEGRADED", Some(reason)),
        Condition::Unhealthy(reason) => ("UNHEALTHY", Some(reason)),
    };
    let mut description = component.facts.clone();
    description.insert("status".to_owned(), status.into());
    if let Some(reason) = reason {
        description.insert("reason".to_owned(), reason.clone().into());
    }
    Value::Object(description)
}

async fn metrics(Shared(admin): Shared<Admin>) -> Response {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("can't encode the metrics: {error}"),
        )
            .into_response(),
    }
}
