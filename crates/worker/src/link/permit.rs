use std::time::{Duration, Instant};

use super::Link;
use super::peers::{PeerId, Permit};

/// How long a scheduler keeps the permit while others wait for it.
const TURN: Duration = Duration::from_secs(1);

/// Which schedulers may hand out suspects: they run one at a time here, whoever hands them out, so one scheduler
/// after the other has the permit.
#[derive(Default)]
pub(super) struct Permits {
    /// Who has it, or may have something under way by it, and since when.
    holder: Option<(PeerId, Instant)>,
    /// Who had it last.
    last: Option<PeerId>,
}

impl Link {
    /// Asks the permit back when its holder's turn is over, and gives it to the next one once it is back.
    pub(super) fn pass_permit(&mut self, now: Instant) {
        if let Some((holder, since)) = self.permit.holder {
            match self.peers.permit(holder) {
                Some(Permit::Given) if self.is_turn_over(holder, since, now) => {
                    self.peers.turn_permit(holder);
                }
                Some(Permit::Given | Permit::AskedBack) => {}
                Some(Permit::None) | None => self.permit.holder = None,
            }
        }
        if self.permit.holder.is_none()
            && let Some(next) = self.next_with_suspects()
            && self.peers.turn_permit(next)
        {
            self.permit.holder = Some((next, now));
            self.permit.last = Some(next);
        }
    }

    fn is_turn_over(&self, holder: PeerId, since: Instant, now: Instant) -> bool {
        let is_wanted_by = |others: bool| {
            let mut wanting = self.peers.with_suspects();
            wanting.any(|peer| (peer != holder) == others)
        };
        is_wanted_by(true) && (!is_wanted_by(false) || now.saturating_duration_since(since) >= TURN)
    }

    /// Whose turn it is next. While a suspect is under way here, only whoever counts it has a turn.
    fn next_with_suspects(&self) -> Option<PeerId> {
        let counts_all = |peer: &PeerId| {
            let mut suspects = self.holdings.suspects();
            suspects.all(|origin| self.counted_by(origin) == Some(*peer))
        };
        let wanting = || self.peers.with_suspects().filter(counts_all);
        let after_last = wanting().find(|peer| Some(*peer) > self.permit.last);
        after_last.or_else(|| wanting().next())
    }
}
