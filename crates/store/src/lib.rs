//! Every SQL statement of Watchwork, and its migrations. Only the scheduler links this crate.

mod catalog;
mod chain;
mod commit;
mod database;
mod error;
mod execution;
mod installation;
mod lane_lease;
mod leader;
mod timestamp;
mod window;

pub use catalog::{ApiKey, Queue};
pub use commit::{Batch, DueEntry, Outcome, Writer};
pub use database::{Database, QueryTimes, within};
pub use error::Error;
pub use execution::{Head, NewExecution, Pairs, StoredAttempt, StoredExecution};
pub use installation::Installation;
pub use lane_lease::{Claimant, LaneLease, LaneOwner, LeaseKeeper, Membership};
pub use leader::{Election, Term, TermHolder};
pub use window::{Table, WindowMap};
