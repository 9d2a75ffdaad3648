//! A lane group: some of the scheduler's lanes with one writer. Everything that concerns a lane comes
//! to its group as an input; what came while the last commit was out is the next batch.

mod actor;
mod commit;
mod depth;
mod doubt;
mod heads;
mod input;
mod intake;
mod keys;
mod listing;
mod memory;
mod plan;
mod pressure;
mod reads;
mod saving;
mod side;
mod snapshots;
mod stored;
mod take_back;
mod tasks;
mod turnover;

pub(crate) use actor::{Group, GroupHandle};
pub(crate) use input::{
    Adopted, Cancel, CancelVerdict, Change, HeldTask, Holding, IdempotencyKey, Incoming, Input,
    NotTaken, Report, Revise, RevisedVerdict, SaidHeld, SentCheckpoint, Submit, Taken, Verdicts,
    Watched,
};
pub(crate) use keys::Named;
pub(crate) use listing::{Open, OpenFound, OpenList, Sought, joined};
pub(crate) use memory::InMemory;
pub(crate) use plan::{CancelledNow, ClaimedTask, Effects, Ended, RevisedNow};
pub(crate) use saving::answer as checkpoint_answer;
pub(crate) use tasks::correlation_id;
