use std::time::{Duration, Instant};

use super::peers::PeerId;

/// How long to wait for an answer before something is sent again; doubled each time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
const MAX_RESEND: Duration = Duration::from_secs(16);
/// The first back-off after "I'm not the owner"; doubled each time.
const AFTER_NOT_OWNER: Duration = Duration::from_millis(50);

/// How far something is on its way that is sent until it is answered.
pub(super) struct Way {
    /// How often it was sent.
    sent: u32,
    /// To whom last.
    pub(super) sent_to: Option<PeerId>,
    /// When to send it, again if nothing is heard of it.
    pub(super) due: Instant,
}

impl Way {
    /// To be sent at once.
    pub(super) fn new(now: Instant) -> Self {
        let (sent, sent_to, due) = (0, None, now);
        Self { sent, sent_to, due }
    }

    /// It goes to a session.
    pub(super) fn note_sent(&mut self, to: PeerId, now: Instant) {
        self.sent_to = Some(to);
        self.due = now + doubled(ANSWERED_WITHIN, self.sent, MAX_RESEND);
        self.sent = self.sent.saturating_add(1);
    }

    /// It didn't go after all.
    pub(super) fn take_back(&mut self, now: Instant) {
        self.due = now;
        self.sent -= 1;
    }

    /// Somebody who doesn't own the lane declined it; `elsewhere`: somebody else is known to. Says whether to send it
    /// at once; if not, it is due when there may be a newer view.
    pub(super) fn note_declined(&mut self, by: PeerId, elsewhere: bool, now: Instant) -> bool {
        if self.sent_to != Some(by) {
            // It is on its way to another one already.
            return false;
        }
        // The second refusal in a row waits even if it is somebody else's: two schedulers with
        // different views must not toss it to and fro.
        if elsewhere && self.sent <= 1 {
            return true;
        }
        self.due = now + doubled(AFTER_NOT_OWNER, self.sent, ANSWERED_WITHIN);
        false
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}
