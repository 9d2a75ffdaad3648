//! The scheduler: the hub, and the only process that talks to PostgreSQL. Every replica owns lanes,
//! accepts what belongs to them, hands it to workers and records what became of it; one of them leads.

mod args;
mod catalog;
mod clock;
mod credentials;
mod demand;
mod dispatch;
mod group;
mod household;
mod leader;
mod lifecycle;
mod line_families;
mod line_metrics;
mod log_budget;
mod metrics;
mod options;
mod ownership;
mod peers;
mod posting;
mod rpc;
mod seed;
mod server;
mod session;
mod shared;
#[cfg(test)]
mod simulation;
mod turns;

pub use args::Args;
pub use server::serve;
