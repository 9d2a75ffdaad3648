//! What a worker of the world saves while it runs something, and sends until it is answered.

use std::time::Duration;

use bytes::Bytes;
use domain::ExecutionId;
use domain::lane::CheckpointMark;
use proto::v1::checkpoints::Checkpoint;
use proto::v1::{CheckpointAnswer, CheckpointVerdict, Checkpoints, Task, work_request};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::work::{HeldTask, Worker, request};

/// What one attempt saves.
pub(super) struct Saving {
    /// When it saves something next.
    pub(super) at: Option<Instant>,
    /// Its last checkpoint's number.
    number: u64,
    /// Which nobody has answered.
    unanswered: Option<Checkpoint>,
}

impl Saving {
    /// A third of all attempts save something.
    pub(super) fn new(chance: &mut StdRng) -> Self {
        let mut saving = Self {
            at: None,
            number: 0,
            unanswered: None,
        };
        saving.go_on(chance, 3);
        saving
    }

    /// The next comes soon, in one of so many cases.
    fn go_on(&mut self, chance: &mut StdRng, one_of: u32) {
        let pause = Duration::from_millis(chance.random_range(1..300));
        let next = chance.random_ratio(1, one_of);
        self.at = next.then(|| Instant::now() + pause);
    }
}

impl Worker {
    /// What an earlier attempt saved is what the task says.
    pub(super) fn note_begun_with(&self, id: ExecutionId, task: &Task) {
        let saved = task.saved.as_ref().map(|saved| {
            let (fence, number) = (saved.fence, saved.number);
            let mark = CheckpointMark { fence, number };
            assert_eq!(saved.state, state(mark), "{id} gets another's state");
            mark
        });
        self.world.truth.begin_with(id, task.fence, saved);
    }

    /// Saves what is due to be saved.
    pub(super) fn save(&mut self) {
        let now = Instant::now();
        let due =
            |held: &HeldTask| held.done.is_none() && held.saving.at.is_some_and(|at| at <= now);
        let due = self.held.iter().filter(|(_, held)| due(held));
        for (id, fence) in due.map(|(task, _)| *task).collect::<Vec<_>>() {
            self.save_one(id, fence);
        }
    }

    /// One that has lost its right may not know it, or be slow to.
    pub(super) fn save_too_late(&mut self, id: ExecutionId, fence: u64) {
        if self.held.contains_key(&(id, fence)) && self.chance.random_ratio(1, 3) {
            self.save_one(id, fence);
        }
    }

    fn save_one(&mut self, id: ExecutionId, fence: u64) {
        let Some(held) = self.held.get_mut(&(id, fence)) else {
            return;
        };
        held.saving.number += 1;
        held.saving.go_on(&mut self.chance, 2);
        let number = held.saving.number;
        let mark = CheckpointMark { fence, number };
        let checkpoint = Checkpoint {
            execution_id: Bytes::copy_from_slice(id.as_bytes()),
            fence,
            number,
            state: state(mark),
            progress: None,
        };
        held.saving.unanswered = Some(checkpoint.clone());
        self.world.truth.saves(id, mark);
        self.send_checkpoint(id, checkpoint);
    }

    /// Sends again what nobody has answered.
    pub(super) fn save_again(&self) {
        for ((id, _), held) in &self.held {
            if let (None, Some(checkpoint)) = (&held.done, &held.saving.unanswered) {
                self.send_checkpoint(*id, checkpoint.clone());
            }
        }
    }

    fn send_checkpoint(&self, id: ExecutionId, checkpoint: Checkpoint) {
        let checkpoints = vec![checkpoint];
        let owner = self.owner(id).and_then(|owner| self.streams.get(&owner));
        if let Some(stream) = owner {
            let message = work_request::Message::Checkpoints(Checkpoints { checkpoints });
            let _ = stream.requests.send(request(message));
        }
    }

    pub(super) fn take_answers(&mut self, from: &str, answers: &[CheckpointAnswer]) {
        answers
            .iter()
            .for_each(|answer| self.take_answer(from, answer));
    }

    fn take_answer(&mut self, from: &str, answer: &CheckpointAnswer) {
        let id = ExecutionId::from_slice(&answer.execution_id).expect("an id");
        let (fence, number, verdict) = (answer.fence, answer.number, answer.verdict());
        let name = &self.name;
        self.world.history.note(|| {
            format!("{name}: {number} of {id} ({fence}) is answered by {from}: {verdict:?}")
        });
        if self.owner(id).as_deref() != Some(from) {
            return;
        }
        match verdict {
            CheckpointVerdict::Recorded => {
                self.world.truth.saved(id, CheckpointMark { fence, number });
            }
            CheckpointVerdict::NotOwner => return,
            _ => {}
        }
        if let Some(held) = self.held.get_mut(&(id, fence)) {
            held.saving.unanswered.take_if(|sent| sent.number == number);
        }
    }
}

/// What a handler would save: which checkpoint it is.
fn state(mark: CheckpointMark) -> Bytes {
    Bytes::from(format!("{}/{}", mark.fence, mark.number))
}
