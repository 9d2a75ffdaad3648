use std::time::Instant;

use domain::ExecutionId;
use proto::v1;

use super::Link;
use super::held::{Held, Stage};
use super::peers::PeerId;
use super::schedulers::SchedulerRef;
use crate::outcome::{Outcome, Report, Times};
use crate::stop::Urgency;

impl Link {
    /// Lets go of what the worker has no right to: nothing is reported. Whoever has lost a lane since it was told what
    /// is held of it is in no place to judge.
    pub(super) fn revoke(&mut self, by: SchedulerRef, revoked: &[v1::Held]) {
        let mut misled: Vec<PeerId> = Vec::new();
        for (id, fence) in named(revoked) {
            if self.schedulers.is_strange_to(id.lane(), by) {
                continue;
            }
            let held = self.holdings.exact_mut(id, fence);
            let origin = held.map(|held| held.origin).filter(|origin| *origin != by);
            // Whoever handed it out takes the worker for its holder still: the next Hello tells.
            misled.extend(origin.and_then(|origin| self.peers.with(origin)));
            self.let_go(id, fence);
        }
        misled.sort_unstable();
        misled.dedup();
        for peer in misled {
            self.lost(
                peer,
                "another scheduler revoked what it handed out".to_owned(),
            );
        }
    }

    /// Somebody cancelled these. What waits never begins, what runs is told to stop. What has ended
    /// has its answer on the way.
    pub(super) fn cancel(&mut self, cancelled: &[v1::Held]) {
        let now = Instant::now();
        for (id, fence) in named(cancelled) {
            let Some(held) = self.holdings.exact_mut(id, fence) else {
                continue;
            };
            match &held.stage {
                Stage::Waiting { .. } => self.answer_unbegun(id, fence, Outcome::Cancelled, now),
                Stage::Running { shared } => shared.stop.cancel(now),
                Stage::Ended(_) => {}
            }
        }
        self.forget_what_waits_no_more();
    }

    /// Something more urgent needs the slots: what has not begun goes back.
    pub(super) fn take_back(&mut self, listed: &[v1::Held]) {
        let now = Instant::now();
        for (id, fence) in named(listed) {
            self.answer_unbegun(id, fence, Outcome::Stopped, now);
        }
        self.forget_what_waits_no_more();
    }

    /// Hands back all that has not begun.
    pub(super) fn return_unbegun(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.waiting) {
            let Some(held) = self.holdings.get_mut(id) else {
                continue;
            };
            let fence = held.fence;
            self.answer_unbegun(id, fence, Outcome::Stopped, now);
        }
    }

    /// Gives a task that has not begun its result; from here on it can't begin.
    pub(super) fn answer_unbegun(
        &mut self,
        id: ExecutionId,
        fence: u64,
        outcome: Outcome,
        now: Instant,
    ) {
        let Some(held) = self.holdings.exact_mut(id, fence) else {
            return;
        };
        let Stage::Waiting { shared, .. } = &held.stage else {
            return;
        };
        let times = Times {
            arrived: shared.task.arrived,
            begun: None,
            ended: now,
        };
        let report = Report::new(shared, outcome, times);
        self.conclude(report, now);
    }

    /// An attempt's result is to be sent, if the right to it is still held and there is none yet.
    pub(super) fn conclude(&mut self, report: Report, now: Instant) {
        let id = report.execution_id;
        if self.holdings.end(report, now) {
            self.outgoing.push(id);
        }
    }

    /// Lets go of one, and stops its handler where it stands.
    pub(super) fn let_go(&mut self, id: ExecutionId, fence: u64) {
        let held = self.holdings.remove(id, fence);
        if let Some(shared) = held.as_ref().and_then(Held::unfinished) {
            shared.stop.request(Urgency::Drop);
        }
    }

    /// While every slot is taken for long, what comes and is called back must not pile up.
    fn forget_what_waits_no_more(&mut self) {
        let holdings = &self.holdings;
        self.waiting.retain(|id| holdings.is_waiting(*id));
    }
}

/// What a list names. An id that is none names nothing.
fn named(list: &[v1::Held]) -> impl Iterator<Item = (ExecutionId, u64)> {
    list.iter()
        .filter_map(|held| Some((ExecutionId::from_slice(&held.execution_id)?, held.fence)))
}
