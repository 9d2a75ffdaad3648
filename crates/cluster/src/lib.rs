//! Everything on one machine: a private PostgreSQL and all processes, for `watchwork dev`, tests and
//! benches.

mod cluster;
mod dev_file;
mod directory;
mod environment;
mod launches;
mod listening;
mod member;
mod nursery;
mod options;
mod ports;
mod postgres;
mod readiness;
mod secrets;
mod seed;
mod service;
pub mod testing;

pub use cluster::Cluster;
pub use dev_file::{DevFile, DevProcess};
pub use member::{Launch, Member};
pub use options::{ExtraEnv, InstanceEnv, Options, Queue, Tenant};
pub use postgres::{Postgres, PostgresOptions, Timeline};
pub use service::Service;
