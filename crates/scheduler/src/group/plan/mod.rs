//! Planning a batch: what came in, what ended, whose time has come, and who gets what. It changes
//! nothing of the lanes; what it changes of their sides is undone if the batch isn't committed.

mod accept;
mod claim;
mod ending;
mod revising;
mod saving;
mod undo;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::lane::{Class, Draft, DueMark, Lane, TimedEntry};
use domain::{
    AttemptResult, Decision, ExecutionId, ExecutionState, Hour, IdKey, Items, LaneId, Micros,
    Reason,
};
use proto::v1::{CheckpointAnswer, Settlement};
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use store::{Batch, KeptEntry, Options, Place};

use super::depth::Depths;
use super::input::{CancelVerdict, RevisedVerdict, Verdicts};
use super::keys::{Named, RecentKeys};
use super::side::Side;
use super::stored::take_pages;
use super::turnover::Farewell;
use crate::session::Session;
use crate::shared::Known;

/// Everything that follows once a batch is committed.
#[derive(Default)]
pub(crate) struct Effects {
    /// What each submission gets, in their order.
    pub(crate) verdicts: Vec<Verdicts>,
    /// What each cancellation gets, in their order.
    pub(crate) cancel_verdicts: Vec<CancelVerdict>,
    /// What each revision gets, in their order.
    pub(crate) revise_verdicts: Vec<RevisedVerdict>,
    pub(crate) accepted: Vec<(Known, SystemTime)>,
    /// The lines into which something came through the inbox.
    pub(crate) received: Vec<Class>,
    pub(crate) promoted: Vec<(Class, u64)>,
    pub(crate) cancelled: Vec<CancelledNow>,
    pub(crate) revised: Vec<RevisedNow>,
    pub(crate) claimed: Vec<ClaimedTask>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) settlements: Vec<(Arc<Session>, Settlement)>,
    /// What became of checkpoints.
    pub(crate) answers: Vec<(Arc<Session>, CheckpointAnswer)>,
}

/// A task that goes out.
pub(crate) struct ClaimedTask {
    pub(crate) session: Arc<Session>,
    pub(crate) known: Known,
    pub(crate) fence: u64,
    pub(crate) attempt: u16,
    pub(crate) enqueued: Micros,
    /// How long it may run: not at all if its total time is over.
    pub(crate) timeout: Duration,
    /// It runs beside no other one of which this is true.
    pub(crate) suspect: bool,
}

/// An execution that was cancelled.
pub(crate) enum CancelledNow {
    /// Nobody ran it: it is over.
    Over {
        known: Known,
        attempt: u16,
        fence: u64,
    },
    /// It runs, and its worker is to be told.
    Told {
        session: Arc<Session>,
        id: ExecutionId,
        fence: u64,
    },
}

/// An execution that was over and that somebody revised.
pub(crate) struct RevisedNow {
    pub(crate) known: Known,
    pub(crate) state: ExecutionState,
    pub(crate) reason: Reason,
}

/// An attempt that came to its end.
pub(crate) struct Ended {
    pub(crate) known: Known,
    pub(crate) class: Class,
    pub(crate) fence: u64,
    pub(crate) attempt: u16,
    pub(crate) worker: Arc<str>,
    /// Whose slot it had.
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) result: AttemptResult,
    pub(crate) decision: Decision,
    pub(crate) state: ExecutionState,
    pub(crate) run_us: i64,
    pub(crate) start_us: i64,
    pub(crate) error: Option<(String, String)>,
    pub(crate) items: Items,
}

/// A batch while it is planned.
pub(super) struct Planner<'a> {
    pub(super) at: Micros,
    pub(super) options: &'a Options,
    pub(super) id_key: &'a IdKey,
    pub(super) chance: &'a mut StdRng,
    /// The group's place among the scheduler's.
    pub(super) group: usize,
    pub(super) lanes: &'a BTreeMap<LaneId, Lane>,
    pub(super) sides: &'a mut FxHashMap<LaneId, Side>,
    /// Memory is full: what comes into lines of as many runs stays in its table.
    pub(super) full_from: Option<usize>,
    pub(super) known_keys: &'a RecentKeys,
    /// The idempotency keys of what this batch accepts.
    pub(super) new_keys: FxHashMap<[u8; 16], Named>,
    pub(super) drafts: BTreeMap<LaneId, Draft<'a>>,
    pub(super) depths: Depths,
    pub(super) batch: Batch,
    pub(super) effects: Effects,
}

impl<'a> Planner<'a> {
    fn draft(&mut self, lane: LaneId) -> Option<&mut Draft<'a>> {
        let memory = self.lanes.get(&lane)?;
        let (at, full_from) = (self.at, self.full_from);
        let begin = || {
            let mut draft = memory.draft(at);
            full_from
                .into_iter()
                .for_each(|runs| draft.store_beyond(runs));
            draft
        };
        Some(self.drafts.entry(lane).or_insert_with(begin))
    }

    /// What was read of the lanes' due entries.
    pub(super) fn read_due(&mut self, reads: Vec<(LaneId, DueMark, Vec<TimedEntry>)>) {
        for (lane, mark, entries) in reads {
            if let Some(draft) = self.draft(lane) {
                draft.read_due(mark, entries);
            }
        }
    }

    /// Moves what was kept for later into the windows that were made since. Where that is all of it,
    /// `until` says up to which hour.
    pub(super) fn move_kept(&mut self, moves: Vec<(LaneId, Vec<KeptEntry>, Option<Hour>)>) {
        for (lane, entries, until) in moves {
            if let (Some(draft), Some(until)) = (self.draft(lane), until) {
                draft.keep_until(until);
            }
            self.batch.kept.extend(entries);
        }
    }

    /// Says of windows on their way out what is to be said; what another row has said since stays so.
    pub(super) fn say_farewell(&mut self) {
        let farewells = self.sides.iter_mut();
        let farewells =
            farewells.filter_map(|(lane, side)| Some((*lane, side.turning.farewell.take()?)));
        let mut farewells: Vec<(LaneId, Farewell)> = farewells.collect();
        farewells.sort_unstable_by_key(|(lane, _)| *lane);
        for (lane, farewell) in farewells {
            let Some(draft) = self.draft(lane) else {
                continue;
            };
            let memory = draft.lane();
            match farewell {
                Farewell::Close(window) if !memory.is_turned_from(window) => draft.close(window),
                Farewell::LetGo(window) if memory.closing().covers(window) => draft.let_go(window),
                Farewell::Close(_) | Farewell::LetGo(_) => {}
            }
        }
    }

    /// Moves what is due into its line.
    pub(super) fn promote(&mut self) {
        let now = self.at;
        let ripe = |lane: &Lane| {
            lane.timers()
                .keys()
                .next()
                .is_some_and(|mark| mark.due <= now)
        };
        let lanes = self
            .lanes
            .iter()
            .filter(|(_, lane)| ripe(lane))
            .map(|(id, _)| *id);
        let touched = self.drafts.keys().copied();
        let mut lanes: Vec<LaneId> = lanes.chain(touched).collect();
        lanes.sort_unstable();
        lanes.dedup();
        for lane in lanes {
            if let Some(draft) = self.draft(lane) {
                for (class, count) in draft.promote() {
                    self.effects.promoted.push((class, count));
                }
            }
        }
    }

    /// Takes in what was read of lines that wait in their table. Gives those of which that isn't what the chain
    /// says.
    pub(super) fn recall(&mut self) -> Vec<(LaneId, Class)> {
        let mut misread = Vec::new();
        for (lane, class, page) in take_pages(self.sides) {
            let recalled = self.draft(lane).map(|draft| draft.recall(class, &page));
            if let Some(Err(error)) = recalled {
                tracing::error!(event = "stored_misread", partition = lane.0, %error,
                    "rows and chain disagree on what waits in a line: it is read again");
                misread.push((lane, class));
            }
        }
        misread
    }

    /// Where the rows of an execution's home go.
    fn place(&self, lane: LaneId, home: Hour) -> Place {
        let closing = self
            .lanes
            .get(&lane)
            .is_some_and(|lane| lane.is_closing(home));
        let ahead = self
            .drafts
            .get(&lane)
            .is_some_and(|d| home >= d.kept_until());
        match closing || (ahead && home > self.at.hour()) {
            true => Place::Kept,
            false => Place::Window,
        }
    }

    /// The planned batch, lanes ascending.
    pub(super) fn seal(self) -> (Batch, Effects) {
        let mut batch = self.batch;
        let id = rand::Rng::random(self.chance);
        let (drafts, kept, outcomes) = (self.drafts, &batch.kept, &batch.outcomes);
        // Rows of a lane go in behind its chain, though it changes nothing there.
        let writes = |lane: LaneId| {
            let moves = kept.iter().any(|entry| entry.lane == lane);
            moves || outcomes.iter().any(|outcome| outcome.lane == lane)
        };
        let drafts = drafts.into_iter();
        let drafts = drafts.filter(|(lane, draft)| !draft.is_empty() || writes(*lane));
        batch.rows = drafts.map(|(_, draft)| draft.seal(id)).collect();
        (batch, self.effects)
    }
}
