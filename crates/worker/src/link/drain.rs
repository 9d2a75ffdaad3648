use std::time::{Duration, Instant};

use super::Link;
use super::held::Stage;
use crate::notice::Notice;
use crate::stop::Urgency;

/// How much of the grace is kept for stopping handlers and reporting.
const LAST: Duration = Duration::from_secs(2);

/// The way out: handlers run on, are then asked to stop, are then dropped, and the rest of the
/// time is for their results.
pub(super) struct Drain {
    ask_at: Instant,
    drop_at: Instant,
    end_at: Instant,
    /// How long after that the streams may take to close.
    close_within: Duration,
    asked: Option<Urgency>,
}

impl Drain {
    /// All of it within `grace`, as a process has it that is told to end.
    pub(super) fn within(now: Instant, grace: Duration) -> Self {
        let last = LAST.min(grace / 2);
        Self::new(now + (grace - last), last)
    }

    /// Handlers have all of `grace`, and stopping them comes after it.
    pub(super) fn after(now: Instant, grace: Duration) -> Self {
        Self::new(now + grace, LAST)
    }

    fn new(ask_at: Instant, last: Duration) -> Self {
        Self {
            ask_at,
            drop_at: ask_at + last / 2,
            end_at: ask_at + last * 4 / 5,
            close_within: last / 10,
            asked: None,
        }
    }

    fn urgency(&self, now: Instant) -> Option<Urgency> {
        if now >= self.drop_at {
            return Some(Urgency::Drop);
        }
        (now >= self.ask_at).then_some(Urgency::Ask)
    }
}

impl Link {
    /// Takes nothing new from here on; what has not begun goes back. Told again, the grace that ends first counts.
    pub(super) fn begin_drain(&mut self, drain: Drain) {
        if let Some(begun) = &mut self.drain {
            if drain.end_at < begun.end_at {
                *begun = drain;
            }
            return;
        }
        self.drain = Some(drain);
        self.shown.set_draining();
        self.readiness.drain();
        self.share_out();
        self.return_unbegun(Instant::now());
        self.tell(Notice::Draining {
            running: self.running,
        });
    }

    /// Stops handlers when their time is over; they are reported as handed back.
    pub(super) fn drain_on(&mut self, now: Instant) {
        let Some(drain) = &mut self.drain else { return };
        let urgency = drain.urgency(now);
        if urgency == drain.asked {
            return;
        }
        drain.asked = urgency;
        let Some(urgency) = urgency else { return };
        for (_, held) in self.holdings.iter() {
            if let Stage::Running { shared } = &held.stage {
                shared.stop.request(urgency);
            }
        }
    }

    /// Whether nothing keeps the worker here: all is settled, or the time is over.
    pub(super) fn has_left(&self) -> bool {
        let Some(drain) = &self.drain else {
            return false;
        };
        let settled = self.holdings.is_empty() && self.running == 0;
        settled || Instant::now() >= drain.end_at
    }

    /// Says goodbye and closes the streams. Schedulers for which something is still held get no
    /// goodbye, since their part of it wouldn't be true: there the lease runs out by itself.
    pub(super) async fn leave(self) {
        let busy: Vec<_> = self
            .holdings
            .iter()
            .filter_map(|(id, held)| self.route(id.lane(), held.origin))
            .collect();
        let unsettled = self.holdings.len();
        let within = self.drain.as_ref().map_or(LAST, |drain| drain.close_within);
        self.peers.close(within, |peer| !busy.contains(&peer)).await;
        let _ = self.notices.send(Notice::Left { unsettled });
    }
}
