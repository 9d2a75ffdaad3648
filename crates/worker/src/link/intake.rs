use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::limits;
use proto::v1;
use proto::v1::work_response::Message as Response;

use super::Link;
use super::drain::Drain;
use super::held::{Held, Stage};
use super::peers::PeerId;
use super::schedulers::SchedulerRef;
use crate::context::Shared;
use crate::notice::Notice;
use crate::outcome::{Outcome, Report};
use crate::stop::Urgency;
use crate::task::Task;

impl Link {
    /// What a scheduler says once it has welcomed the worker.
    pub(super) fn received(&mut self, peer: PeerId, message: Response) {
        // A session that was dropped meanwhile: what it still brought is void.
        let Some(scheduler) = self.peers.scheduler_of(peer) else {
            return;
        };
        match message {
            Response::Dispatch(dispatch) => self.take_on((peer, scheduler), dispatch.tasks),
            Response::Settlements(settled) => self.settle((peer, scheduler), &settled.settlements),
            Response::ClusterView(view) => self.see(view, scheduler),
            Response::Revoke(revoked) => self.revoke(scheduler, &revoked.held),
            Response::Cancel(cancelled) => self.cancel(&cancelled.held),
            Response::TakeBack(listed) => self.take_back(&listed.held),
            Response::Demand(demand) => self.peers.note_demand(peer, demand),
            Response::Drain(drain) => {
                let now = Instant::now();
                let grace = drain.grace_us.map(Duration::from_micros);
                self.begin_drain(match grace {
                    Some(grace) => Drain::after(now, grace.min(limits::MAX_TIMEOUT)),
                    None => Drain::within(now, self.profile.shutdown_grace),
                });
            }
            Response::CheckpointAnswers(answered) => {
                self.take_answers((peer, scheduler), &answered.answers)
            }
            // The session keeps these to itself.
            Response::Welcome(_) | Response::HeartbeatAnswer(_) => {}
        }
    }

    fn take_on(&mut self, (peer, origin): (PeerId, SchedulerRef), tasks: Vec<v1::Task>) {
        let (now, mut refused) = (Instant::now(), false);
        for mut wire in tasks {
            match Task::take(&mut wire, now) {
                Some(task) if self.holdings.covers(task.execution_id, task.fence) => {}
                Some(task) if self.comes_too_late(origin, &task) => {
                    let (execution_id, fence) = (task.execution_id, task.fence);
                    self.tell(Notice::TooLate {
                        execution_id,
                        fence,
                    });
                    refused = true;
                }
                Some(task) => self.hold(origin, task, wire.payload, now),
                None => self.tell(Notice::NonsenseTask { fence: wire.fence }),
            }
        }
        if refused {
            // It may be the owner all the same, and wait for them: the next Hello tells that they aren't held, and
            // its answer who owns what.
            self.lost(peer, "it handed out what it doesn't own".to_owned());
        }
    }

    /// Whether the lane has another owner since: a new one says so before it hands anything out, and was told
    /// by now what the worker holds. This would be run without its knowing.
    fn comes_too_late(&self, origin: SchedulerRef, task: &Task) -> bool {
        let owner = self.schedulers.owner(task.execution_id.lane());
        owner.is_some_and(|owner| owner != origin)
    }

    /// Holds a task: it waits for a slot, or goes back at once when the worker is leaving, or if it is a suspect
    /// and there is one.
    fn hold(&mut self, origin: SchedulerRef, task: Task, payload: bytes::Bytes, now: Instant) {
        let (id, fence) = (task.execution_id, task.fence);
        self.runner.metrics.received.inc();
        let logged = self.log_budget.admit(&task, now);
        let shared = Shared::new(task, logged, self.to_link.clone());
        match logged {
            true => self.tell(Notice::Received(Arc::clone(&shared))),
            false => self.runner.metrics.lines_suppressed.inc(),
        }
        let granted = self.rights.lease(origin).unwrap_or(now);
        let beside_another = shared.task.suspect && self.holdings.suspects().next().is_some();
        let stage = Stage::Waiting { shared, payload };
        let older = self.holdings.insert(
            id,
            Held {
                fence,
                origin,
                granted,
                stage,
            },
        );
        if let Some(shared) = older.as_ref().and_then(Held::unfinished) {
            // The scheduler claimed it anew: the earlier claim is void.
            shared.stop.request(Urgency::Drop);
        }
        if beside_another {
            self.answer_unbegun(id, fence, Outcome::Stopped, now);
            return;
        }
        self.waiting.push_back(id);
        if self.drain.is_some() {
            self.return_unbegun(now);
        }
    }

    /// Begins what waits while there are slots.
    pub(super) fn fill_slots(&mut self) {
        while self.running < self.profile.slots {
            let Some(id) = self.waiting.pop_front() else {
                break;
            };
            let Some((shared, payload)) = self.holdings.begin(id) else {
                continue;
            };
            self.runner.start(shared, payload);
            self.running += 1;
        }
        self.show_running();
    }

    /// An attempt ended: its slot is free, and if the right to it is still held, its result is
    /// to be sent.
    pub(super) fn ended(&mut self, report: Report) {
        self.running = self.running.saturating_sub(1);
        self.sharing.note_end(report.ran);
        self.conclude(report, Instant::now());
    }

    fn show_running(&self) {
        let metrics = &self.runner.metrics;
        self.shown.set_running(self.running);
        metrics.concurrent.set(i64::from(self.running));
        let share = f64::from(self.running) / f64::from(self.profile.slots);
        metrics.utilization.set(100.0 * share);
    }
}
