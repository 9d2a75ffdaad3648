//! What workers say of attempts that go on: what they save for the next one, and how far they are.

use std::sync::Arc;

use bytes::Bytes;
use domain::lane::CheckpointMark;
use domain::{ExecutionId, Progress};
use proto::v1::{CheckpointAnswer, CheckpointVerdict};

use super::actor::Group;
use super::input::{HeldTask, SentCheckpoint};
use super::intake::Pending;
use super::side::Held;
use crate::session::Session;

impl Group {
    /// Keeps what is saved in lanes of this group for the next batch, and says of the rest that it must go elsewhere.
    pub(super) fn take_checkpoints(
        &mut self,
        session: Arc<Session>,
        sent: Vec<SentCheckpoint>,
        pending: &mut Pending,
    ) {
        let (own, foreign): (Vec<_>, Vec<_>) = sent
            .into_iter()
            .partition(|sent| self.lanes.contains_key(&sent.id.lane()));
        let answers = foreign
            .iter()
            .map(|sent| answer(sent.id, sent.mark, CheckpointVerdict::NotOwner));
        super::tasks::answer(
            answers
                .map(|answer| (Arc::clone(&session), answer))
                .collect(),
        );
        for sent in &own {
            if let Some(progress) = &sent.progress {
                self.note_progress(&session, (sent.id, sent.mark.fence), progress.clone());
            }
        }
        if !own.is_empty() {
            pending.save(session, own);
        }
    }

    /// Notes how far attempts are: a hint, which is lost with the lane.
    pub(super) fn take_progress(
        &mut self,
        session: &Arc<Session>,
        reports: Vec<(HeldTask, Progress)>,
    ) {
        for (task, progress) in reports {
            self.note_progress(session, task, progress);
        }
    }

    fn note_progress(&mut self, session: &Arc<Session>, (id, fence): HeldTask, progress: Progress) {
        let lane = self.lanes.get(&id.lane());
        let running = lane.and_then(|lane| lane.running().get(&id.seq()));
        if running.is_none_or(|running| running.fence != fence || !session.may_hold(running)) {
            return;
        }
        if let Some(held) = self.held_mut(id) {
            held.progress = Some(Box::new(progress));
        }
    }

    fn held_mut(&mut self, id: ExecutionId) -> Option<&mut Held> {
        let held = self.sides.get_mut(&id.lane())?.held.get_mut(&id.seq())?;
        (held.known.id == id).then_some(held)
    }
}

/// What became of a checkpoint.
pub(crate) fn answer(
    id: ExecutionId,
    mark: CheckpointMark,
    verdict: CheckpointVerdict,
) -> CheckpointAnswer {
    CheckpointAnswer {
        execution_id: Bytes::copy_from_slice(id.as_bytes()),
        fence: mark.fence,
        number: mark.number,
        verdict: verdict.into(),
    }
}
