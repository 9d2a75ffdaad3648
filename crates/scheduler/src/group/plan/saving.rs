//! What running executions save for their next attempts.

use std::sync::Arc;

use proto::v1::CheckpointVerdict;
use store::Checkpoint;

use super::Planner;
use crate::group::input::SentCheckpoint;
use crate::group::saving::answer;
use crate::session::Session;

impl Planner<'_> {
    /// Saves what came. Before the endings, since a worker sends what its handler saved before its result.
    pub(in crate::group) fn save(&mut self, session: &Arc<Session>, sent: &[SentCheckpoint]) {
        for sent in sent {
            let answer = answer(sent.id, sent.mark, self.save_one(session, sent));
            self.effects.answers.push((Arc::clone(session), answer));
        }
    }

    /// It counts under the same terms as a result: the fence is that of the running attempt, and it comes from the
    /// worker that the attempt was claimed for.
    fn save_one(&mut self, session: &Arc<Session>, sent: &SentCheckpoint) -> CheckpointVerdict {
        let (lane, seq) = (sent.id.lane(), sent.id.seq());
        let held = self.sides.get(&lane).and_then(|side| side.held.get(&seq));
        let is_genuine = held.is_some_and(|held| held.known.id == sent.id);
        let Some(draft) = self.draft(lane) else {
            return CheckpointVerdict::NotOwner;
        };
        let Ok(running) = draft.running(seq, sent.mark.fence) else {
            return CheckpointVerdict::Stale;
        };
        if !(is_genuine && session.may_hold(running)) {
            return CheckpointVerdict::Stale;
        }
        let (home, tenant) = (running.home, running.class.tenant);
        match draft.save(seq, sent.mark) {
            Err(_) => return CheckpointVerdict::Stale,
            Ok(false) => return CheckpointVerdict::Recorded,
            Ok(true) => {}
        }
        self.batch.checkpoints.push(Checkpoint {
            lane,
            seq,
            home,
            tenant,
            mark: sent.mark,
            state: sent.state.clone(),
            progress: sent.progress.clone(),
            place: self.place(lane, home),
        });
        CheckpointVerdict::Recorded
    }
}
