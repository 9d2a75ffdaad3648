//! The rules and nouns of Watchwork. Pure: no I/O, no clock, no async, no randomness of its own.

mod execution;
mod id;
mod idempotency;
pub mod lane;
pub mod limits;
mod list;
mod micros;
mod progress;
mod retry;
mod revision;
mod spans;

pub use execution::{AttemptResult, Budgets, ExecutionState, FinalState, Priority, Reason};
pub use id::{ExecutionId, IdKey, LaneId, ParseIdError};
pub use idempotency::{ToDo, key_hash};
pub use list::{Foremost, ListMark, Stretch};
pub use micros::{Hour, HourRange, HourSet, Micros};
pub use progress::{Items, Progress};
pub use retry::{Attempted, Backoff, Decision, Growth, RetryPolicy, Verdict, decide};
pub use revision::{Revised, Revision};
pub use spans::lifecycle_span_id;
