use domain::Progress;
use domain::lane::{CheckpointMark, Class};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;

use super::snapshots::SnapshotPace;
use super::stored::Recall;
use super::turnover::Turning;
use crate::session::Slot;
use crate::shared::Known;

/// What an owner has beside a lane's durable state: it can be read again at any time, and is lost with
/// the lane.
pub(super) struct Side {
    /// When the lane came.
    pub(super) adopted: Instant,
    /// What is known of those that wait: a part of them.
    pub(super) heads: Heads,
    /// What is known of those that run: of every one.
    pub(super) held: FxHashMap<u64, Held>,
    /// Lines whose heads are being read.
    pub(super) loading: FxHashSet<Class>,
    /// Lines of which is read what waits in its table.
    pub(super) recalls: FxHashMap<Class, Recall>,
    /// When the lane's next snapshot is due.
    pub(super) snapshots: SnapshotPace,
    /// How far it has come with windows on their way out.
    pub(super) turning: Turning,
}

/// A running execution and the slot that it takes.
pub(super) struct Held {
    /// `None` after a take-over, until its worker says that it has it.
    pub(super) slot: Option<Slot>,
    pub(super) known: Known,
    /// When somebody cancelled it.
    pub(super) cancelled: Option<Instant>,
    /// Its worker was asked to hand it back if it has not begun.
    pub(super) asked_back: bool,
    /// How far its worker says that it is.
    pub(super) progress: Option<Box<Progress>>,
}

impl Held {
    /// One that has its slot, and of which nothing else is known yet.
    pub(super) fn new(slot: Option<Slot>, known: Known) -> Self {
        Self {
            slot,
            known,
            cancelled: None,
            asked_back: false,
            progress: None,
        }
    }
}

/// Heads in memory, and what they weigh.
#[derive(Default)]
pub(super) struct Heads {
    by_seq: FxHashMap<u64, Known>,
    bytes: usize,
}

impl Heads {
    pub(super) fn insert(&mut self, seq: u64, known: Known) {
        self.bytes += known.bytes();
        if let Some(before) = self.by_seq.insert(seq, known) {
            self.bytes -= before.bytes();
        }
    }

    pub(super) fn take(&mut self, seq: u64) -> Option<Known> {
        let known = self.by_seq.remove(&seq)?;
        self.bytes -= known.bytes();
        Some(known)
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Known> {
        self.by_seq.get(&seq)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of `count` executions from `first` on are known, with their last checkpoints as `saved` has them,
    /// without a gap.
    pub(super) fn known_from(
        &self,
        (first, count): (u64, u32),
        saved: impl Fn(u64) -> Option<CheckpointMark>,
    ) -> u32 {
        let is_known = |seq: &u64| {
            let known = self.by_seq.get(seq);
            known.is_some_and(|known| known.saved_mark() == saved(*seq))
        };
        let known = (first..first + u64::from(count)).take_while(is_known);
        u32::try_from(known.count()).unwrap_or(count)
    }
}

impl Side {
    /// `running`: what runs, and whether somebody cancelled it.
    pub(super) fn new(running: impl IntoIterator<Item = (u64, (Known, bool))>) -> Self {
        let held = running.into_iter().map(|(seq, (known, cancelled))| {
            let held = Held {
                cancelled: cancelled.then(Instant::now),
                ..Held::new(None, known)
            };
            (seq, held)
        });
        Self {
            adopted: Instant::now(),
            heads: Heads::default(),
            held: held.collect(),
            loading: FxHashSet::default(),
            recalls: FxHashMap::default(),
            snapshots: SnapshotPace::new(),
            turning: Turning::default(),
        }
    }
}
