//! The stateless edge: takes calls, knows who is calling and which scheduler is to answer, and keeps
//! nothing.
//!
//! A call passes `edge` (which observes it, admits it by `keys`, and has its body paid for by `metered_body`),
//! one method of `executions`, and then one of `submission` (checked, routed, and sent by `singles` or `batch`),
//! `reads`, `cancelling`, `revising` and `watch`. All of them ask `cluster_view` for the owner of a lane, which
//! `view_watcher` keeps up to date.

mod backoff;
mod batch;
mod cancelling;
mod cluster_view;
mod config;
mod edge;
mod endpoints;
mod executions;
mod field_count;
mod fleet;
mod fresh;
mod gateway;
mod keys;
mod list_filter;
mod metered_body;
mod metrics;
mod observed_call;
mod owners;
mod problem;
mod queues;
mod readiness;
mod reads;
mod request_trace;
mod revising;
mod room;
mod scheduler_link;
mod seeds;
mod singles;
mod submission;
mod validation;
mod view_watcher;
mod watch;

pub use config::Args;
pub use gateway::{Settings, run, serve};
pub use seeds::Seed;
