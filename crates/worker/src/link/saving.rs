use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use domain::{ExecutionId, LaneId, Progress};
use prost::Message;
use proto::v1;
use proto::v1::CheckpointVerdict as Verdict;
use proto::v1::checkpoints::Checkpoint;
use proto::v1::work_request::Message as Request;
use tokio::sync::oneshot;

use super::Link;
use super::deliver::MAX_MESSAGE_BYTES;
use super::held::Stage;
use super::peers::PeerId;
use super::schedulers::SchedulerRef;
use super::way::Way;
use crate::account::{Attempt, CheckpointError, NewCheckpoint, progress_on_wire};
use crate::notice::Notice;

/// Whoever waits for a checkpoint, and its number.
type Waiter = (u64, oneshot::Sender<Result<(), CheckpointError>>);

/// What handlers want saved and nobody has acknowledged: of each attempt the newest alone, since that is all that the
/// next one needs.
#[derive(Default)]
pub(super) struct Unsaved {
    by_attempt: HashMap<Attempt, Newest>,
    /// To be sent now.
    outgoing: Vec<Attempt>,
}

struct Newest {
    number: u64,
    state: Bytes,
    progress: Option<Progress>,
    waiters: Vec<Waiter>,
    way: Way,
}

impl Unsaved {
    /// Notes what a handler saves. What it saved before needn't be sent any more.
    pub(super) fn note(&mut self, new: NewCheckpoint, now: Instant) {
        let newest = self
            .by_attempt
            .entry(new.attempt)
            .or_insert_with(|| Newest {
                number: 0,
                state: Bytes::new(),
                progress: None,
                waiters: Vec::new(),
                way: Way::new(now),
            });
        newest.waiters.push((new.number, new.done));
        if new.number > newest.number {
            (newest.number, newest.state) = (new.number, new.state);
            (newest.progress, newest.way) = (new.progress, Way::new(now));
            self.outgoing.push(new.attempt);
        }
    }

    pub(super) fn take_up(&mut self, which: impl Fn(LaneId, &Way) -> bool, now: Instant) {
        for (attempt, newest) in &mut self.by_attempt {
            if which(attempt.0.lane(), &newest.way) {
                newest.way.due = now;
                self.outgoing.push(*attempt);
            }
        }
    }

    /// What waits for an answer up to a number, and whether anything is left.
    fn take_waiters(&mut self, attempt: Attempt, upto: u64) -> Vec<Waiter> {
        let Some(newest) = self.by_attempt.get_mut(&attempt) else {
            return Vec::new();
        };
        if newest.number <= upto {
            return self
                .by_attempt
                .remove(&attempt)
                .map_or_else(Vec::new, |newest| newest.waiters);
        }
        newest
            .waiters
            .extract_if(.., |(number, _)| *number <= upto)
            .collect()
    }
}

impl Newest {
    fn to_wire(&self, (id, fence): Attempt) -> Checkpoint {
        Checkpoint {
            execution_id: Bytes::copy_from_slice(id.as_bytes()),
            fence,
            number: self.number,
            state: self.state.clone(),
            progress: self.progress.as_ref().map(progress_on_wire),
        }
    }
}

impl Link {
    /// Sends what handlers save, that to one scheduler together. What can't be sent now is tried again at a later
    /// tick.
    pub(super) fn send_checkpoints(&mut self) {
        if self.unsaved.outgoing.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut parcels: BTreeMap<PeerId, Vec<Checkpoint>> = BTreeMap::new();
        for attempt in std::mem::take(&mut self.unsaved.outgoing) {
            let held = self.holdings.running_under(attempt.0, attempt.1);
            let peer = held.and_then(|held| self.route(attempt.0.lane(), held.origin));
            let newest = self.unsaved.by_attempt.get_mut(&attempt);
            if let (Some(peer), Some(newest)) = (peer, newest) {
                parcels
                    .entry(peer)
                    .or_default()
                    .push(newest.to_wire(attempt));
                newest.way.note_sent(peer, now);
            }
        }
        for (peer, checkpoints) in parcels {
            self.send_checkpoints_to(peer, checkpoints, now);
        }
    }

    fn send_checkpoints_to(&mut self, peer: PeerId, checkpoints: Vec<Checkpoint>, now: Instant) {
        let (mut message, mut bytes) = (Vec::new(), 0);
        let mut messages = Vec::new();
        for checkpoint in checkpoints {
            let size = checkpoint.encoded_len();
            if bytes + size > MAX_MESSAGE_BYTES && bytes > 0 {
                messages.push(std::mem::take(&mut message));
                bytes = 0;
            }
            bytes += size;
            message.push(checkpoint);
        }
        messages.push(message);
        for checkpoints in messages {
            if self.peers.has_room(peer) {
                let message = v1::Checkpoints { checkpoints };
                self.peers.send(peer, Request::Checkpoints(message));
                continue;
            }
            for unsent in checkpoints {
                let id = ExecutionId::from_slice(&unsent.execution_id);
                let newest = id.and_then(|id| self.unsaved.by_attempt.get_mut(&(id, unsent.fence)));
                if let Some(newest) = newest {
                    newest.way.take_back(now);
                }
            }
        }
    }

    /// What became of checkpoints; of whose lane the scheduler is the owner still, as with results.
    pub(super) fn take_answers(
        &mut self,
        (from, by): (PeerId, SchedulerRef),
        answers: &[v1::CheckpointAnswer],
    ) {
        for answer in answers {
            let Some(id) = ExecutionId::from_slice(&answer.execution_id) else {
                continue;
            };
            let (attempt, number) = ((id, answer.fence), answer.number);
            match answer.verdict() {
                _ if self.schedulers.is_strange_to(id.lane(), by) => {
                    self.ask_owner_to_save(from, attempt);
                }
                Verdict::Recorded => self.note_saved(attempt, number),
                Verdict::Stale => self.refuse((attempt, u64::MAX), CheckpointError::RightLost),
                Verdict::TooLarge => {
                    let newest = self.unsaved.by_attempt.get(&attempt);
                    let size = newest.map_or(0, |newest| newest.state.len());
                    self.refuse((attempt, number), CheckpointError::TooLarge(size));
                }
                Verdict::NotOwner => self.ask_owner_to_save(from, attempt),
                // A verdict that later versions bring says nothing: it is sent again in time.
                Verdict::Unspecified => {}
            }
        }
    }

    fn note_saved(&mut self, attempt: Attempt, number: u64) {
        let waiters = self.unsaved.take_waiters(attempt, number);
        if waiters.is_empty() {
            // It was sent twice.
            return;
        }
        self.runner
            .metrics
            .checkpoints
            .saved
            .inc_by(waiters.len() as u64);
        let held = self.holdings.running_under(attempt.0, attempt.1);
        if let Some(Stage::Running { shared }) = held.map(|held| &held.stage) {
            let shared = Arc::clone(shared);
            self.tell(Notice::CheckpointSaved { shared, number });
        }
        for (_, done) in waiters {
            // A handler that was dropped doesn't wait any more.
            let _ = done.send(Ok(()));
        }
    }

    fn refuse(&mut self, (attempt, upto): (Attempt, u64), why: CheckpointError) {
        let waiters = self.unsaved.take_waiters(attempt, upto);
        self.runner
            .metrics
            .checkpoints
            .failed
            .inc_by(waiters.len() as u64);
        for (_, done) in waiters {
            let _ = done.send(Err(why));
        }
    }

    fn ask_owner_to_save(&mut self, declined_by: PeerId, attempt: Attempt) {
        let held = self.holdings.running_under(attempt.0, attempt.1);
        let peer = held.and_then(|held| self.route(attempt.0.lane(), held.origin));
        let elsewhere = peer.is_some_and(|peer| peer != declined_by);
        let newest = self.unsaved.by_attempt.get_mut(&attempt);
        let is_urgent = |newest: &mut Newest| {
            newest
                .way
                .note_declined(declined_by, elsewhere, Instant::now())
        };
        if newest.is_some_and(is_urgent) {
            self.unsaved.outgoing.push(attempt);
        }
    }

    /// Gives up what attempts save that don't run any more, or whose right is gone.
    pub(super) fn forget_what_cannot_be_saved(&mut self) {
        let attempts = self.unsaved.by_attempt.keys();
        let over =
            attempts.filter(|(id, fence)| self.holdings.running_under(*id, *fence).is_none());
        for attempt in over.copied().collect::<Vec<_>>() {
            self.refuse((attempt, u64::MAX), CheckpointError::RightLost);
        }
    }
}
