use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use domain::lane::{Class, Lane};
use domain::{AttemptResult, ExecutionId, ExecutionState, LaneId, Reason};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};

use super::memory::InMemory;
use crate::session::Session;
use crate::shared::{Known, Work};

/// What comes to a lane group.
pub(crate) enum Input {
    /// Executions to accept.
    Submit(Submit),
    /// Results of a worker.
    Reports(Arc<Session>, Vec<Report>),
    /// What a worker holds.
    Holding(Holding),
    /// A lane that was taken over.
    Adopt(Box<Adopted>),
    /// Lanes to let go of; answered when nothing of theirs is written any more.
    Drop(Vec<LaneId>, oneshot::Sender<()>),
    /// Heads that were read for a line: what was found of those that were asked for.
    Heads(LaneId, Class, Vec<(u64, Known)>),
    /// What memory knows of an execution; `None` if the lane isn't here.
    Ask(ExecutionId, oneshot::Sender<Option<InMemory>>),
    /// The same, and every change from there on.
    Watch(
        ExecutionId,
        mpsc::UnboundedSender<Watched>,
        oneshot::Sender<Option<InMemory>>,
    ),
}

/// Executions to accept together, each with a verdict of its own.
pub(crate) struct Submit {
    pub(crate) items: Vec<Incoming>,
    pub(crate) reply: oneshot::Sender<Vec<Result<ExecutionId, NotTaken>>>,
}

/// One execution to accept.
pub(crate) struct Incoming {
    pub(crate) lane: LaneId,
    pub(crate) work: Arc<Work>,
    pub(crate) arrived: SystemTime,
}

/// Why an execution was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("lane {0} has no owner here just now; nothing was taken, try again in a second")]
    NotOwner(LaneId),
    #[error("the lane's owner can't write just now; nothing was taken, try again in a second")]
    NotNow,
    #[error("the commit's answer was lost: it may or may not have been taken")]
    InDoubt,
}

/// How an attempt ended, as its worker says.
pub(crate) struct Report {
    pub(crate) id: ExecutionId,
    pub(crate) fence: u64,
    pub(crate) result: AttemptResult,
    pub(crate) permanent: bool,
    pub(crate) error: Option<(String, String)>,
    pub(crate) output: Option<(Bytes, String)>,
    pub(crate) waited_us: u64,
    pub(crate) ran_us: u64,
    pub(crate) held_us: u64,
}

/// The right to one attempt, as a worker says that it has it.
pub(crate) type HeldTask = (ExecutionId, u64);

/// What a worker holds of this group's lanes.
pub(crate) struct Holding {
    pub(crate) session: Arc<Session>,
    pub(crate) held: Vec<HeldTask>,
    /// A worker that connects tells all it holds, with nothing on its way to it: what it doesn't name of
    /// its own never reached it.
    pub(crate) complete: bool,
    /// Gets what it has no right to.
    pub(crate) reply: oneshot::Sender<Vec<HeldTask>>,
}

/// A lane on its way to its new owner's memory.
pub(crate) struct Adopted {
    pub(crate) lane: Lane,
    /// What its running executions are.
    pub(crate) running: FxHashMap<u64, Known>,
}

/// What watchers are told.
pub(crate) enum Watched {
    /// An execution changed.
    Change(Change),
    /// Its lane isn't here any more: ask the new owner.
    Moved(ExecutionId),
}

/// A change that watchers are told of.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) id: ExecutionId,
    pub(crate) state: ExecutionState,
    pub(crate) reason: Reason,
    pub(crate) attempt: u16,
    pub(crate) fence: u64,
    pub(crate) worker: Arc<str>,
}
