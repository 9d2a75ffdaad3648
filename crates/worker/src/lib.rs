//! The worker as a library: write a [`Handler`] for each of your job types, and let a [`Worker`]
//! run them. The binary of the same name does so with the built-in types.
//!
//! | part | what it does |
//! |---|---|
//! | `handler`, `payload`, `context`, `account` | what users of the library write and see |
//! | `worker` | puts the parts together |
//! | `link` | all streams and heartbeats, and what is held: on a thread of its own |
//! | `runner`, `attempt` | runs handlers, on the runtime of whoever started the worker |
//! | `outcome`, `journal`, `attempt_span`, `metrics` | what is told of them |
//! | `builtin` | the job types of the binary |

mod account;
mod args;
mod attempt;
mod attempt_span;
mod builtin;
mod context;
mod handler;
mod journal;
mod link;
mod metrics;
mod notice;
mod outcome;
mod payload;
mod process_usage;
mod registry;
mod runner;
mod stop;
mod task;
mod worker;

pub use account::{CheckpointError, Saved};
pub use args::WorkerArgs;
pub use builtin::{
    Command, CommandPayload, Count, CountPayload, Fail, FailPayload, GroupGuard, Noop, Sleep,
    SleepPayload,
};
pub use context::Context;
pub use domain::{Items, Progress};
pub use handler::{Handler, HandlerError, Output, Then};
pub use payload::{FromPayload, Json};
pub use worker::{BuildError, RunError, Worker, WorkerBuilder};
