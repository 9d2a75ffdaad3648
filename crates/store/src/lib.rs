//! Every SQL statement of Watchwork, and its migrations. Only the scheduler links this crate.

mod batch;
mod carry;
mod catalog;
mod chain;
mod checkpoint;
mod commit;
mod database;
mod error;
mod execution;
mod housekeeping;
mod idempotency;
mod inbox;
mod installation;
mod lane_lease;
mod leader;
mod listed;
mod listing;
mod options;
#[cfg(test)]
mod plans;
mod snapshot;
mod storage;
mod timestamp;
mod turnover;
mod window;
mod writer;

pub use batch::{Batch, Checkpoint, DueEntry, KeptEntry, NewKey, Outcome, Place};
pub use carry::{CarriedOver, CarryOver, Departure, LetGo};
pub use catalog::{ApiKey, KnowNames, Queue};
pub use checkpoint::StoredCheckpoint;
pub use database::{Database, QueryTimes, within};
pub use error::Error;
pub use execution::{Head, NewExecution, Pairs, ReadExecutions, StoredAttempt, StoredExecution};
pub use housekeeping::{Housekeeper, KeepHouse};
pub use idempotency::KnownKey;
pub use inbox::{InboxEntry, InboxRead, PostWork, Posted, Poster};
pub use installation::Installation;
pub use lane_lease::{
    Claimant, KeepLeases, LaneLease, LaneOwner, LeaseKeeper, Membership, Renewal,
};
pub use leader::{Election, Lead, Term, TermHolder};
pub use listed::{ExecutionPlace, LastEnd, LastOutcome, ListedHead};
pub use listing::{ListPart, ReadLists};
pub use options::{Options, QueueOptions};
pub use snapshot::WriteSnapshots;
pub use storage::{SharedStorage, Storage};
pub use window::{Retention, Table, WindowMap, WindowState};
pub use writer::{Settled, WriteLanes, Writer};
