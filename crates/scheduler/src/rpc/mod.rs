//! What the scheduler serves: gateways and peers on one service, workers on the other.

mod acceptance;
mod cancelling;
mod describe;
mod fleet;
mod from_worker;
mod listing;
mod reading;
mod retry_policy;
mod revising;
mod scheduler_service;
mod watching;
mod work_stream;
mod worker_service;

use store::Error;
use tonic::Status;

pub(crate) use scheduler_service::Internal;
#[cfg(test)]
pub(crate) use work_stream::WorkStream;
pub(crate) use worker_service::WorkerApi;

/// What callers are told when the database can't be asked. Why is in the log: a driver's words help nobody
/// who can't see the database.
const OUTAGE: &str = "the scheduler can't reach its database just now; try again in a second";

/// What a caller is told of the database's trouble.
fn told(error: &Error) -> String {
    if let Error::Inconsistent { .. } = error {
        return error.to_string();
    }
    tracing::warn!(event = "database_trouble", %error, "a call can't be served");
    OUTAGE.to_owned()
}

/// The same as the status of a whole call.
fn trouble(error: &Error) -> Status {
    match error {
        Error::Inconsistent { .. } => Status::internal(told(error)),
        _ => Status::unavailable(told(error)),
    }
}
