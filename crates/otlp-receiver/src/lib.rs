//! An OTLP receiver in memory that answers Jaeger's query API, so that traces can be looked up and
//! checked on a machine without a trace store.
//!
//! Takes spans by gRPC and by HTTP (`POST /v1/traces`, protocol buffers), keeps the newest, and
//! answers `/api/services`, `/api/services/{service}/operations`, `/api/traces` and
//! `/api/traces/{id}` in the form that Jaeger's own UI and Grafana read.

mod duration;
mod grpc;
mod http;
mod jaeger;
mod query;
mod receiver;
mod store;
mod translate;

pub use receiver::{Receiver, ReceiverOptions};
