//! What one commit writes.

use std::sync::Arc;

use domain::lane::{CheckpointMark, DueMark, Row, TimedEntry};
use domain::{
    AttemptResult, Budgets, ExecutionId, ExecutionState, Hour, Items, LaneId, Micros, Progress,
    Reason,
};

use crate::NewExecution;

/// What one transaction writes.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    /// A row for each lane that is touched, lanes ascending, all planned at the same time; two for one whose
    /// chain goes on elsewhere.
    pub rows: Vec<Row>,
    /// The executions that the rows accept.
    pub executions: Vec<NewExecution>,
    /// The outcomes of the attempts that the rows end.
    pub outcomes: Vec<Outcome>,
    /// What running executions save.
    pub checkpoints: Vec<Checkpoint>,
    /// What waits for a time beyond what has been read of the `due` table.
    pub due: Vec<DueEntry>,
    /// The idempotency keys of the executions that have one.
    pub keys: Vec<NewKey>,
    /// What was kept apart for later and moves into windows that were made since.
    pub kept: Vec<KeptEntry>,
}

/// An execution that is kept apart because it is due beyond all windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptEntry {
    /// Whose.
    pub lane: LaneId,
    /// When it is due, and its number.
    pub mark: DueMark,
}

/// Where a row goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// To the window of its hour.
    Window,
    /// Apart: its window isn't made yet, or is on its way out.
    Kept,
}

/// An idempotency key on its way to its table.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The key's hash, of tenant and text.
    pub key: [u8; 16],
    /// Of what is to be done.
    pub fingerprint: i64,
    /// The tenant's number.
    pub tenant: i32,
    /// The execution that it names.
    pub id: ExecutionId,
}

/// How one attempt ended, or what somebody did to an execution that was over: a row of `outcome`.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its execution's lane.
    pub lane: LaneId,
    /// Its execution's number.
    pub seq: u64,
    /// Its execution's home hour.
    pub home: Hour,
    /// The attempt's fence; where there was none, the row's own number.
    pub fence: u64,
    /// The tenant's number.
    pub tenant: i32,
    /// The queue's number.
    pub queue: i32,
    /// Counts from 1.
    pub attempt: u16,
    /// How it ended; `None`: no attempt did.
    pub result: Option<AttemptResult>,
    /// What that made of the execution.
    pub state: ExecutionState,
    /// Why.
    pub reason: Reason,
    /// What is used up by then.
    pub budgets: Budgets,
    /// Who ran it.
    pub worker: Arc<str>,
    /// When it was claimed.
    pub claimed: Micros,
    /// Enqueued to claimed, in microseconds.
    pub queued_us: i64,
    /// Claimed to the handler's begin.
    pub dispatch_us: i64,
    /// The handler's run time.
    pub run_us: i64,
    /// The handler's end to the commit.
    pub report_us: i64,
    /// RETRYING: when next.
    pub next_at: Option<Micros>,
    /// The error's class.
    pub error_class: Option<String>,
    /// The error's text.
    pub error_message: Option<String>,
    /// What the handler returned.
    pub output: Option<bytes::Bytes>,
    /// Its media type.
    pub output_type: Option<String>,
    /// Whether its trace is kept.
    pub trace_kept: bool,
    /// What the handler counted.
    pub items: Items,
    /// How far it said that it is, last.
    pub progress: Option<Progress>,
    /// Where the row goes.
    pub place: Place,
}

/// What an attempt saved for the next: a row of `checkpoint`.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its execution's lane.
    pub lane: LaneId,
    /// Its execution's number.
    pub seq: u64,
    /// Its execution's home hour.
    pub home: Hour,
    /// The tenant's number.
    pub tenant: i32,
    /// Its place among the execution's.
    pub mark: CheckpointMark,
    /// The handler's own bytes.
    pub state: bytes::Bytes,
    /// How far the attempt is.
    pub progress: Option<Progress>,
    /// Where the row goes.
    pub place: Place,
}

/// An execution that waits for its time, on its way to the `due` table.
#[derive(Clone, Copy, Debug)]
pub struct DueEntry {
    /// Whose.
    pub lane: LaneId,
    /// When, and what.
    pub entry: TimedEntry,
    /// Where the row goes.
    pub place: Place,
}
