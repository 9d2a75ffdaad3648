use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use domain::lane::{CheckpointMark, Class, InTable, Lane, TimedEntry};
use domain::{
    AttemptResult, ExecutionId, ExecutionState, Hour, HourRange, Items, LaneId, Progress, Reason,
    Revision,
};
use rustc_hash::FxHashMap;
use store::{LetGo, Table};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::depth::DepthLimit;
use super::listing::{OpenFound, OpenList, Sought};
use super::memory::InMemory;
use super::stored::StoredRead;
use super::turnover::Carried;
use crate::session::Session;
use crate::shared::{Known, Work};

/// What comes to a lane group.
pub(crate) enum Input {
    /// Executions to accept.
    Submit(Submit),
    /// An execution to cancel.
    Cancel(Cancel),
    /// An execution that is over, to be revised.
    Revise(Revise),
    /// Results of a worker.
    Reports(Arc<Session>, Vec<Report>),
    /// What a worker's handlers save.
    Checkpoints(Arc<Session>, Vec<SentCheckpoint>),
    /// How far a worker's attempts are.
    Progress(Arc<Session>, Vec<(HeldTask, Progress)>),
    /// What a worker holds.
    Holding(Holding),
    /// A lane that was taken over.
    Adopt(Box<Adopted>),
    /// Lanes to let go of; answered when nothing of theirs is written any more.
    Drop(Vec<LaneId>, oneshot::Sender<()>),
    /// Heads that were read for a line: what was found of those that were asked for.
    Heads(LaneId, Class, Vec<(u64, Known)>),
    /// What was read of a line that waits in its table.
    Stored(StoredRead),
    /// A snapshot of a lane was written, of which row, or wasn't; and how long that took.
    Snapshot(LaneId, Option<u64>, Duration),
    /// What is open in a window of a lane was carried over, or wasn't.
    Carried(LaneId, HourRange, Carried),
    /// It was said of lanes that they need some windows no more.
    LetGo(Vec<LetGo>),
    /// What the database had noted of that at a time, by lane, table and first hour.
    NotedLetGo(Instant, Vec<(LaneId, Table, Hour)>),
    /// What memory knows of an execution; `None` if the lane isn't here.
    Ask(ExecutionId, oneshot::Sender<Option<InMemory>>),
    /// The same, and every change from there on.
    Watch(
        ExecutionId,
        mpsc::UnboundedSender<Watched>,
        oneshot::Sender<Option<InMemory>>,
    ),
    /// What is open in some lanes; `None` if one of them isn't here.
    ListOpen(
        Arc<OpenList>,
        Vec<LaneId>,
        oneshot::Sender<Option<OpenFound>>,
    ),
    /// Where executions stand that aren't over by their rows; `None` if the lane of one isn't here.
    Locate(Vec<Sought>, oneshot::Sender<Option<Vec<InMemory>>>),
}

/// Executions to accept together, each with a verdict of its own.
pub(crate) struct Submit {
    pub(crate) items: Vec<Incoming>,
    /// No key is waited for that somebody holds.
    pub(crate) hasty: bool,
    pub(crate) reply: oneshot::Sender<Verdicts>,
}

impl Submit {
    /// The same without the items that have an idempotency key, and those by themselves. The caller
    /// gets its answer when both have theirs.
    pub(super) fn without_keys(self) -> (Self, Self) {
        let mut parts = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for (place, item) in self.items.into_iter().enumerate() {
            let part = &mut parts[usize::from(item.key.is_some())];
            part.0.push(place);
            part.1.push(item);
        }
        let [(rest_places, rest), (aside_places, aside)] = parts;
        let ((rest_reply, rest_verdicts), (aside_reply, aside_verdicts)) =
            (oneshot::channel(), oneshot::channel());
        let places = [rest_places, aside_places];
        tokio::spawn(join(self.reply, places, [rest_verdicts, aside_verdicts]));
        let hasty = self.hasty;
        let rest = Self {
            items: rest,
            hasty,
            reply: rest_reply,
        };
        let aside = Self {
            items: aside,
            hasty,
            reply: aside_reply,
        };
        (rest, aside)
    }
}

/// Puts the verdicts of a submission's parts together.
async fn join(
    reply: oneshot::Sender<Verdicts>,
    places: [Vec<usize>; 2],
    parts: [oneshot::Receiver<Verdicts>; 2],
) {
    let count = places.iter().map(Vec::len).sum();
    let mut verdicts: Verdicts = vec![Err(NotTaken::InDoubt); count];
    for (places, part) in places.into_iter().zip(parts) {
        for (place, verdict) in places.into_iter().zip(part.await.unwrap_or_default()) {
            verdicts[place] = verdict;
        }
    }
    let _ = reply.send(verdicts);
}

/// One verdict for each item of a submission.
pub(crate) type Verdicts = Vec<Result<Taken, NotTaken>>;

/// An execution that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    pub(crate) id: ExecutionId,
    /// By an earlier submission of the same idempotency key.
    pub(crate) duplicate: bool,
}

/// One execution to accept.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) lane: LaneId,
    pub(crate) work: Arc<Work>,
    pub(crate) arrived: SystemTime,
    pub(crate) key: Option<IdempotencyKey>,
}

/// An idempotency key, and what was to be done under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IdempotencyKey {
    pub(crate) hash: [u8; 16],
    pub(crate) fingerprint: i64,
}

/// An execution to cancel, as its rows tell of it.
pub(crate) struct Cancel {
    pub(crate) known: Known,
    /// Its line, and its time if it waits for one.
    pub(crate) entry: TimedEntry,
    /// Where its rows know it to be, where memory may not.
    pub(crate) rows: InTable,
    pub(crate) reply: oneshot::Sender<CancelVerdict>,
}

/// What became of a cancellation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CancelVerdict {
    /// It is over.
    Over,
    /// It runs: its worker is told, and nothing follows this attempt.
    Told,
    /// It isn't where its rows said: they must be read again.
    Moved,
    /// Nobody could decide.
    NotNow,
}

/// An execution that is over, and what somebody wants of it.
pub(crate) struct Revise {
    pub(crate) known: Known,
    pub(crate) revision: Revision,
    pub(crate) reply: oneshot::Sender<RevisedVerdict>,
}

/// What became of a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RevisedVerdict {
    /// The execution stands so.
    Done(ExecutionState),
    /// It isn't over.
    Open,
    /// It is over, and not so that this could be done to it.
    Over(ExecutionState),
    /// Its window is on its way out, with what was submitted.
    Leaving,
    /// Nobody could decide.
    NotNow,
}

/// Why an execution was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("lane {0} has no owner here just now; nothing was taken, try again in a second")]
    NotOwner(LaneId),
    #[error("the lane's owner can't write just now; nothing was taken, try again in a second")]
    NotNow,
    #[error(
        "the commit's answer was lost: it may or may not have been taken: with an idempotency key it can be submitted \
         again, and is taken once"
    )]
    InDoubt,
    #[error(
        "its idempotency key is that of execution {0}, which was to do something else: the same key goes with the same job \
         type, queue, payload, content type and due time"
    )]
    KeyConflict(ExecutionId),
    #[error(
        "a transaction that isn't over holds its idempotency key; it was not taken, try again in a second"
    )]
    KeyHeld,
    #[error("{0}")]
    TooDeep(Box<DepthLimit>),
}

/// How an attempt ended, as its worker says.
#[derive(Clone)]
pub(crate) struct Report {
    pub(crate) id: ExecutionId,
    pub(crate) fence: u64,
    pub(crate) result: AttemptResult,
    pub(crate) permanent: bool,
    /// For how long the handler puts the next attempt off.
    pub(crate) put_off: Option<Duration>,
    pub(crate) error: Option<(String, String)>,
    pub(crate) output: Option<(Bytes, String)>,
    pub(crate) waited_us: u64,
    pub(crate) ran_us: u64,
    pub(crate) held_us: u64,
    pub(crate) items: Items,
    /// How far it said that it is, last.
    pub(crate) progress: Option<Progress>,
}

/// What an attempt saves for the next.
#[derive(Clone)]
pub(crate) struct SentCheckpoint {
    pub(crate) id: ExecutionId,
    pub(crate) mark: CheckpointMark,
    pub(crate) state: Bytes,
    pub(crate) progress: Option<Progress>,
}

/// The right to one attempt, as a worker says that it has it.
pub(crate) type HeldTask = (ExecutionId, u64);

/// What a worker says that it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SaidHeld {
    pub(crate) task: HeldTask,
    /// The number of the lane's lease under which it said so; 0: it didn't say.
    pub(crate) epoch: u64,
}

/// What a worker holds of this group's lanes.
pub(crate) struct Holding {
    pub(crate) session: Arc<Session>,
    pub(crate) held: Vec<SaidHeld>,
    /// A worker that connects tells all it holds, with nothing on its way to it: what it doesn't name of
    /// its own never reached it.
    pub(crate) complete: bool,
    /// Gets what it has no right to; nothing, if that can't be judged just now.
    pub(crate) reply: oneshot::Sender<Option<Vec<HeldTask>>>,
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
