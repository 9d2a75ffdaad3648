use std::time::{Duration, Instant};

use domain::ExecutionId;

use super::Link;
use super::held::Stage;
use super::peers::PeerId;
use super::schedulers::SchedulerRef;
use crate::attempt::ASK_GRACE;
use crate::context::Shared;
use crate::notice::Notice;
use crate::outcome::{Outcome, Report, Times};
use crate::stop::Urgency;

/// How long after its last grace a handler that was told to stop counts as one that can't be.
const STOPPED_WITHIN: Duration = Duration::from_secs(2);

impl Link {
    /// Fences the worker off from what it has no right to any more: the lease with the owner ran
    /// out, and no later owner answered. Somebody else may run it from now on; what its handler
    /// would report changes nothing. Results are kept: they may well still count.
    pub(super) fn stop_what_lost_its_right(&mut self, now: Instant) {
        let lapsed: Vec<(ExecutionId, u64, SchedulerRef)> = self
            .holdings
            .iter()
            .filter(|(_, held)| held.granted < now && held.unfinished().is_some())
            .filter(|(id, _)| {
                self.rights
                    .lane(id.lane(), &self.schedulers)
                    .is_none_or(|until| until < now)
            })
            .map(|(id, held)| (id, held.fence, held.origin))
            .collect();
        if lapsed.is_empty() {
            return;
        }
        let mut misled: Vec<PeerId> = self.peers.unwelcomed().collect();
        for (id, fence, origin) in lapsed {
            misled.extend(self.route(id.lane(), origin));
            self.let_go(id, fence);
            self.tell(Notice::RightLost {
                execution_id: id,
                fence,
            });
        }
        // They would take the worker for a holder still. The Hello of the next stream tells them.
        for peer in misled {
            self.lost(peer, "the lease ran out".to_owned());
        }
    }

    /// Reports the end of handlers that block their thread, so that nothing can stop them: their
    /// executions must not hang with them. Their slots stay taken until they come back.
    pub(super) fn give_up_what_cannot_be_stopped(&mut self, now: Instant) {
        let cancel_grace = self.runner.cancel_grace;
        let overdue: Vec<Report> = self
            .holdings
            .iter()
            .filter_map(|(_, held)| match &held.stage {
                Stage::Running { shared } => overdue(shared, cancel_grace, now),
                Stage::Waiting { .. } | Stage::Ended(_) => None,
            })
            .collect();
        for report in overdue {
            self.conclude(report, now);
        }
    }
}

/// The end of an attempt that should have ended long ago, because it was cancelled or is out of time.
fn overdue(shared: &Shared, cancel_grace: Duration, now: Instant) -> Option<Report> {
    let (task, begun) = (&shared.task, shared.begun.get().copied());
    let (latest, outcome) = match (shared.stop.cancelled(), begun) {
        (Some(since), _) => (since + cancel_grace, Outcome::Cancelled),
        (None, Some(begun)) => (
            begun + task.timeout + ASK_GRACE,
            Outcome::TimedOut(task.timeout),
        ),
        (None, None) => return None,
    };
    if latest + STOPPED_WITHIN >= now {
        return None;
    }
    shared.stop.request(Urgency::Drop);
    let times = Times {
        arrived: task.arrived,
        begun,
        ended: now,
    };
    Some(Report::new(shared, outcome, times))
}
