//! What a handler tells of its attempt while it runs: what it saves for the next one, how far it is, what it counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use domain::limits::MAX_CHECKPOINT_BYTES;
use domain::{ExecutionId, Items, Progress};
use proto::v1;
use tokio::sync::{mpsc, oneshot};

/// What an earlier attempt saved last, and a scheduler acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// The handler's own bytes.
    pub state: Bytes,
    /// The fence of the attempt that saved it.
    pub fence: u64,
    /// Which of that attempt's checkpoints it is, from 1.
    pub number: u64,
}

/// Why something was not saved. [`crate::HandlerError`] is made of it by `?`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// So many bytes are more than may be: nothing was sent.
    #[error("a checkpoint of {0} bytes; at most {MAX_CHECKPOINT_BYTES} are kept")]
    TooLarge(usize),
    /// The worker has lost the right to this attempt, or the attempt is over: another one may run.
    #[error("the right to this attempt is lost: nothing that it saves counts any more")]
    RightLost,
}

/// What a handler says to the link.
pub(crate) enum Said {
    /// It saves something.
    Checkpoint(NewCheckpoint),
    /// It is further than it was.
    Progress(Attempt),
}

/// Which attempt: the execution and its fence.
pub(crate) type Attempt = (ExecutionId, u64);

/// Something to be saved.
pub(crate) struct NewCheckpoint {
    pub(crate) attempt: Attempt,
    pub(crate) number: u64,
    pub(crate) state: Bytes,
    pub(crate) progress: Option<Progress>,
    /// Who waits until it is saved. Dropped: it won't be.
    pub(crate) done: oneshot::Sender<Result<(), CheckpointError>>,
}

/// One attempt's account, shared by its handler and the link.
pub(crate) struct Account {
    attempt: Attempt,
    to_link: mpsc::UnboundedSender<Said>,
    /// The last checkpoint's number.
    saved: AtomicU64,
    items: [AtomicU64; 3],
    /// Made when the handler says something of it.
    progress: OnceLock<Mutex<Progress>>,
    /// The link knows that there is something new to be told.
    noticed: AtomicBool,
}

impl Account {
    pub(crate) fn new(attempt: Attempt, to_link: mpsc::UnboundedSender<Said>) -> Self {
        Self {
            attempt,
            to_link,
            saved: AtomicU64::new(0),
            items: Default::default(),
            progress: OnceLock::new(),
            noticed: AtomicBool::new(false),
        }
    }

    pub(crate) async fn save(&self, state: Bytes) -> Result<(), CheckpointError> {
        if state.len() > MAX_CHECKPOINT_BYTES {
            return Err(CheckpointError::TooLarge(state.len()));
        }
        let (done, answer) = oneshot::channel();
        let checkpoint = NewCheckpoint {
            attempt: self.attempt,
            number: self.saved.fetch_add(1, Ordering::Relaxed) + 1,
            state,
            progress: self.progress(),
            done,
        };
        // Without a link the worker has left.
        let _ = self.to_link.send(Said::Checkpoint(checkpoint));
        answer.await.unwrap_or(Err(CheckpointError::RightLost))
    }

    pub(crate) fn note_progress(&self, progress: Progress) {
        *lock(self.progress.get_or_init(Mutex::default)) = progress;
        if !self.noticed.swap(true, Ordering::AcqRel) {
            let _ = self.to_link.send(Said::Progress(self.attempt));
        }
    }

    /// How far it is, to be told now: what comes after is news again.
    pub(crate) fn take_news(&self) -> Option<Progress> {
        self.noticed.store(false, Ordering::Release);
        self.progress()
    }

    /// How far it is, if it has said.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.progress.get().map(|progress| lock(progress).clone())
    }

    pub(crate) fn count(&self, items: Items) {
        let counts = items.by_status();
        for (counter, (_, count)) in self.items.iter().zip(counts) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn items(&self) -> Items {
        let [success, failed, skipped] = &self.items;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Items::new(read(success), read(failed), read(skipped))
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<v1::SavedCheckpoint> for Saved {
    fn from(wire: v1::SavedCheckpoint) -> Self {
        Self {
            state: wire.state,
            fence: wire.fence,
            number: wire.number,
        }
    }
}

/// As it is sent.
pub(crate) fn progress_on_wire(progress: &Progress) -> v1::Progress {
    v1::Progress {
        done: progress.done,
        total: progress.total,
        note: progress.note.to_string(),
    }
}

/// As they are sent; nothing, if nothing was counted.
pub(crate) fn items_on_wire(items: Items) -> Option<v1::Items> {
    let Items {
        success,
        failed,
        skipped,
    } = items;
    (!items.is_none()).then_some(v1::Items {
        success,
        failed,
        skipped,
    })
}
