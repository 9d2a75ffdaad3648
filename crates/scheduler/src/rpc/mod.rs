//! What the scheduler serves: gateways and peers on one service, workers on the other.

mod acceptance;
mod describe;
mod reading;
mod scheduler_service;
mod watching;
mod work_stream;
mod worker_service;

pub(crate) use scheduler_service::Internal;
pub(crate) use worker_service::WorkerApi;
