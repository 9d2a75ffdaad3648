use std::time::{Duration, Instant};

use super::Link;
use super::held::Origin;
use super::peers::{OpenPeer, PeerId};
use super::prefetch::{PERIOD, Prefetch};
use super::windows::{self, Claim};

/// How long a turn lasts when there are fewer slots than schedulers.
const TURN: Duration = Duration::from_secs(1);
/// How long small differences may stand.
const EXACT_WITHIN: Duration = Duration::from_secs(1);

/// What the split of the slots over the schedulers goes by, apart from what is held.
pub(super) struct Sharing {
    prefetch: Prefetch,
    /// Whose turn it is to have what a split leaves over.
    turn: u32,
    turned: Instant,
    /// When the windows were worked out last.
    worked_out: Instant,
    /// Whether they may be others since.
    stale: bool,
    /// When the schedulers were told last.
    told: Instant,
}

impl Sharing {
    pub(super) fn new(slots: u32, turn: u32, now: Instant) -> Self {
        Self {
            prefetch: Prefetch::new(slots, now),
            turn,
            turned: now,
            worked_out: now,
            stale: false,
            told: now,
        }
    }

    /// An attempt ended that ran so long.
    pub(super) fn note_end(&mut self, ran: Duration) {
        self.prefetch.note_end(ran);
    }

    /// What the windows go by may have changed.
    pub(super) fn touch(&mut self) {
        self.stale = true;
    }

    /// When the windows are to be worked out again; `None` while nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        self.stale.then(|| self.worked_out + PERIOD)
    }
}

impl Link {
    /// Gives each scheduler its window now, because the schedulers are others or the worker leaves.
    pub(super) fn share_out(&mut self) {
        let now = Instant::now();
        let windows = self.work_out_windows(now);
        self.tell_windows(&windows, now);
    }

    /// The same when a scheduler is about to be told by Hello: gives its window.
    pub(super) fn share_out_by_hello(&mut self, id: PeerId) -> u32 {
        let now = Instant::now();
        let mut windows = self.work_out_windows(now);
        let place = windows.iter().position(|(peer, _)| peer.id == id);
        let window = place.map_or(0, |place| windows.remove(place).1);
        self.peers.note_window(id, window);
        self.tell_windows(&windows, now);
        window
    }

    /// Follows demand and load: at most once in a period, and small changes more slowly.
    pub(super) fn share_if_due(&mut self, now: Instant) {
        if self.sharing.due().is_none_or(|due| now < due) {
            return;
        }
        let windows = self.work_out_windows(now);
        let told: Vec<u32> = windows.iter().map(|(peer, _)| peer.window).collect();
        let wanted: Vec<u32> = windows.iter().map(|(_, window)| *window).collect();
        let late = now.saturating_duration_since(self.sharing.told) >= EXACT_WITHIN;
        if late || windows::is_worth_telling(&told, &wanted, self.profile.slots) {
            self.tell_windows(&windows, now);
        }
    }

    /// With fewer slots than schedulers their turns go round.
    pub(super) fn take_turns(&mut self, now: Instant) {
        let scarce = (self.profile.slots as usize) < self.peers.opened().count();
        let sharing = &mut self.sharing;
        if scarce && now.saturating_duration_since(sharing.turned) >= TURN {
            sharing.turn = sharing.turn.wrapping_add(1);
            sharing.turned = now;
        }
        sharing.touch();
    }

    fn work_out_windows(&mut self, now: Instant) -> Vec<(OpenPeer, u32)> {
        let prefetch = self.sharing.prefetch.tasks(now);
        self.sharing.worked_out = now;
        // It goes by time, so it is looked after even if nothing else happens.
        self.sharing.stale = prefetch > 0;
        let peers: Vec<OpenPeer> = self.peers.opened().collect();
        let (claims, of_nobody) = self.claims(&peers);
        let room = self.room(prefetch).saturating_sub(of_nobody);
        let windows = windows::split(room, &claims, self.sharing.turn);
        peers.into_iter().zip(windows).collect()
    }

    /// How many tasks may be with the worker. Slots whose handlers have lost their right, or can't
    /// be stopped, count again when they come back.
    fn room(&self, prefetch: u32) -> u32 {
        if self.drain.is_some() {
            return 0;
        }
        let lost = self.running.saturating_sub(self.holdings.running());
        self.profile.slots.saturating_sub(lost) + prefetch
    }

    /// What each of the schedulers wants and has, and how much is under way that none of them
    /// counts.
    fn claims(&self, peers: &[OpenPeer]) -> (Vec<Claim>, u32) {
        let claim = |peer: &OpenPeer| Claim {
            demand: peer.demand,
            under_way: 0,
        };
        let mut claims: Vec<Claim> = peers.iter().map(claim).collect();
        let mut of_nobody = 0;
        for (origin, count) in self.holdings.under_way() {
            let peer = self.counted_by(origin);
            let place = peers.iter().position(|open| Some(open.id) == peer);
            match place {
                Some(place) => claims[place].under_way += count,
                None => of_nobody += count,
            }
        }
        (claims, of_nobody)
    }

    /// Whose count something is part of: an owner takes what runs in its lane for its own.
    pub(super) fn counted_by(&self, (lane, origin): Origin) -> Option<PeerId> {
        let scheduler = self.schedulers.owner(lane).unwrap_or(origin);
        self.peers.with(scheduler)
    }

    fn tell_windows(&mut self, windows: &[(OpenPeer, u32)], now: Instant) {
        for (peer, window) in windows {
            self.peers.tell_window(peer.id, *window);
        }
        self.sharing.told = now;
    }
}
