//! Every SQL statement of Watchwork, and its migrations. Only the scheduler links this crate.

mod batch;
mod catalog;
mod chain;
mod commit;
mod database;
mod error;
mod execution;
mod idempotency;
mod inbox;
mod installation;
mod lane_lease;
mod leader;
mod snapshot;
mod timestamp;
mod window;
mod writer;

pub use batch::{Batch, DueEntry, KeptEntry, NewKey, Outcome, Place};
pub use catalog::{ApiKey, Queue};

pub use database::{Database, QueryTimes, within};
pub use error::Error;
pub use execution::{Head, NewExecution, Pairs, StoredAttempt, StoredExecution};
pub use idempotency::KnownKey;
pub use inbox::{InboxEntry, InboxRead, Posted, Poster};
pub use installation::Installation;
pub use lane_lease::{Claimant, LaneLease, LaneOwner, LeaseKeeper, Membership, Renewal};
pub use leader::{Election, Term, TermHolder};
pub use window::{Table, WindowMap, WindowState};
pub use writer::{Settled, Writer};
