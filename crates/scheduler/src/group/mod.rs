//! A lane group: some of the scheduler's lanes with one writer. Everything that concerns a lane comes
//! to its group as an input; what came while the last commit was out is the next batch.

mod actor;
mod commit;
mod input;
mod intake;
mod memory;
mod plan;
mod side;
mod tasks;

pub(crate) use actor::{Group, GroupHandle};
pub(crate) use input::{
    Adopted, Change, HeldTask, Holding, Incoming, Input, NotTaken, Report, Submit, Watched,
};
pub(crate) use memory::InMemory;
pub(crate) use plan::{ClaimedTask, Effects, Ended};
pub(crate) use tasks::correlation_id;
