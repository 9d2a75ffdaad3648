use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::work_request::Message as Request;
use rand::Rng;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::{Ascii, MetadataValue};

use super::heartbeat::Shown;
use super::schedulers::SchedulerRef;
use super::session::{Event, Session};

/// One session; the next one with the same scheduler has another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PeerId(u64);

/// The first back-off; it doubles with each failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A session that stood this long was no failure.
const STABLE: Duration = Duration::from_secs(5);

/// All sessions, under way or standing.
pub(super) struct Peers {
    authorization: MetadataValue<Ascii>,
    events: mpsc::Sender<Event>,
    shown: Arc<Shown>,
    last: u64,
    by_id: BTreeMap<PeerId, Peer>,
    /// Failures in a row at each address, and the last one's reason.
    failures: HashMap<String, (u32, String)>,
}

/// One session. Dropped, its stream is cut.
pub(super) struct Peer {
    pub(super) address: String,
    /// Who it is; known from Welcome on.
    pub(super) scheduler: Option<SchedulerRef>,
    /// Known from when the connection stands.
    outbox: Option<mpsc::Sender<v1::WorkRequest>>,
    /// When it said Welcome.
    welcomed: Option<Instant>,
    /// The window that it was told last.
    window: u32,
    /// What it was told last of the permit for suspects: odd if it has it.
    permit: u64,
    /// What it could have under way; not said yet by each new session.
    demand: Option<v1::Demand>,
    session: AbortOnDropHandle<()>,
}

/// How a scheduler stands to the permit for suspects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Permit {
    None,
    Given,
    /// It may have something under way by it still.
    AskedBack,
}

/// A session that can take a window.
pub(super) struct OpenPeer {
    pub(super) id: PeerId,
    /// The window that it was told last.
    pub(super) window: u32,
    /// How many tasks it could have under way, if it has said.
    pub(super) demand: Option<u32>,
}

impl Peers {
    pub(super) fn new(
        authorization: MetadataValue<Ascii>,
        events: mpsc::Sender<Event>,
        shown: Arc<Shown>,
    ) -> Self {
        let (by_id, failures) = (BTreeMap::new(), HashMap::new());
        Self {
            authorization,
            events,
            shown,
            last: 0,
            by_id,
            failures,
        }
    }

    /// Begins a session, unless there is one with this address. After a failure it waits first.
    pub(super) fn dial(&mut self, address: &str) {
        if self.by_id.values().any(|peer| peer.address == address) {
            return;
        }
        self.last += 1;
        let id = PeerId(self.last);
        let session = Session {
            peer: id,
            address: address.to_owned(),
            authorization: self.authorization.clone(),
            delay: backoff(self.failures.get(address).map_or(0, |(count, _)| *count)),
            events: self.events.clone(),
            shown: Arc::clone(&self.shown),
        };
        let peer = Peer {
            address: address.to_owned(),
            scheduler: None,
            outbox: None,
            welcomed: None,
            window: 0,
            permit: 0,
            demand: None,
            session: AbortOnDropHandle::new(tokio::spawn(session.run())),
        };
        self.by_id.insert(id, peer);
    }

    /// The connection stands; Hello follows.
    pub(super) fn open(&mut self, id: PeerId, outbox: mpsc::Sender<v1::WorkRequest>) {
        if let Some(peer) = self.by_id.get_mut(&id) {
            peer.outbox = Some(outbox);
        }
    }

    /// The scheduler introduced itself. `false` if the session is gone meanwhile. An older session
    /// with the same scheduler, which two of its addresses can lead to, is dropped.
    pub(super) fn welcome(&mut self, id: PeerId, scheduler: SchedulerRef) -> bool {
        self.by_id
            .retain(|other, peer| *other == id || peer.scheduler != Some(scheduler));
        let Some(peer) = self.by_id.get_mut(&id) else {
            return false;
        };
        peer.scheduler = Some(scheduler);
        peer.welcomed = Some(Instant::now());
        true
    }

    /// The session is over. Tells what it was, unless it was dropped before, and whether the reason
    /// is another than the last time.
    pub(super) fn lose(&mut self, id: PeerId, reason: &str) -> Option<(Peer, bool)> {
        let peer = self.by_id.remove(&id)?;
        let (count, last) = self.failures.entry(peer.address.clone()).or_default();
        let stood = peer.welcomed.is_some_and(|since| since.elapsed() >= STABLE);
        *count = if stood { 1 } else { count.saturating_add(1) };
        let is_news = last != reason;
        reason.clone_into(last);
        Some((peer, is_news))
    }

    /// The scheduler of a session, from its Welcome on.
    pub(super) fn scheduler_of(&self, id: PeerId) -> Option<SchedulerRef> {
        self.by_id.get(&id)?.scheduler
    }

    /// The session with a scheduler, if it stands.
    pub(super) fn with(&self, scheduler: SchedulerRef) -> Option<PeerId> {
        self.standing()
            .find(|(_, known)| *known == scheduler)
            .map(|(id, _)| id)
    }

    /// The sessions that stand.
    pub(super) fn standing(&self) -> impl Iterator<Item = (PeerId, SchedulerRef)> {
        self.by_id
            .iter()
            .filter_map(|(id, peer)| Some((*id, peer.scheduler?)))
    }

    /// The sessions whose Hello is out and not answered yet.
    pub(super) fn unwelcomed(&self) -> impl Iterator<Item = PeerId> {
        let waits = |peer: &Peer| peer.outbox.is_some() && peer.scheduler.is_none();
        self.by_id
            .iter()
            .filter(move |(_, peer)| waits(peer))
            .map(|(id, _)| *id)
    }

    /// Sends a message. `false` if there is no session, or it has more to write than it can.
    pub(super) fn send(&self, id: PeerId, message: Request) -> bool {
        let Some(outbox) = self.by_id.get(&id).and_then(|peer| peer.outbox.as_ref()) else {
            return false;
        };
        outbox
            .try_send(v1::WorkRequest {
                message: Some(message),
            })
            .is_ok()
    }

    /// Whether [`Peers::send`] would succeed.
    pub(super) fn has_room(&self, id: PeerId) -> bool {
        let outbox = self.by_id.get(&id).and_then(|peer| peer.outbox.as_ref());
        outbox.is_some_and(|outbox| outbox.capacity() > 0 && !outbox.is_closed())
    }

    /// The sessions that can take a window, in a stable order.
    pub(super) fn opened(&self) -> impl Iterator<Item = OpenPeer> {
        let open = |(id, peer): (&PeerId, &Peer)| OpenPeer {
            id: *id,
            window: peer.window,
            demand: peer.demand.map(|demand| demand.tasks),
        };
        self.by_id
            .iter()
            .filter(|(_, peer)| peer.outbox.is_some())
            .map(open)
    }

    /// A scheduler says how many tasks it could have under way.
    pub(super) fn note_demand(&mut self, id: PeerId, demand: v1::Demand) {
        if let Some(peer) = self.by_id.get_mut(&id) {
            peer.demand = Some(demand);
        }
    }

    /// The sessions whose schedulers have suspects that wait.
    pub(super) fn with_suspects(&self) -> impl Iterator<Item = PeerId> {
        let wants = |peer: &Peer| peer.demand.is_some_and(|demand| demand.suspects);
        let wanting = self.by_id.iter().filter(move |(_, peer)| wants(peer));
        wanting.map(|(id, _)| *id)
    }

    /// How a session stands to the permit for suspects; `None`: there is no such session.
    pub(super) fn permit(&self, id: PeerId) -> Option<Permit> {
        let peer = self.by_id.get(&id)?;
        let taken_in = peer
            .demand
            .is_some_and(|demand| demand.permit == peer.permit);
        Some(match (peer.permit.is_multiple_of(2), taken_in) {
            (false, _) => Permit::Given,
            (true, false) => Permit::AskedBack,
            (true, true) => Permit::None,
        })
    }

    /// Gives a scheduler the permit for suspects, or asks it back. `false` if that can't be sent now.
    pub(super) fn turn_permit(&mut self, id: PeerId) -> bool {
        let told = self.by_id.get(&id).map(|peer| (peer.window, peer.permit));
        told.is_some_and(|(window, permit)| self.tell(id, (window, permit + 1)))
    }

    /// A scheduler is told its window by Hello.
    pub(super) fn note_window(&mut self, id: PeerId, tasks: u32) {
        if let Some(peer) = self.by_id.get_mut(&id) {
            peer.window = tasks;
        }
    }

    /// Tells a scheduler its window, unless it knows. If that can't be sent now, it stays untold.
    pub(super) fn tell_window(&mut self, id: PeerId, tasks: u32) {
        if let Some(permit) = self.by_id.get(&id).map(|peer| peer.permit) {
            self.tell(id, (tasks, permit));
        }
    }

    /// Whether it knows, then.
    fn tell(&mut self, id: PeerId, (tasks, permit): (u32, u64)) -> bool {
        let knows = |peer: &Peer| (peer.window, peer.permit) == (tasks, permit);
        if self.by_id.get(&id).is_none_or(knows) {
            return true;
        }
        let told = self.send(id, Request::Window(v1::Window { tasks, permit }));
        if told && let Some(peer) = self.by_id.get_mut(&id) {
            (peer.window, peer.permit) = (tasks, permit);
        }
        told
    }

    /// Says goodbye where `may_leave` allows it, closes all sessions, and waits for what is still
    /// to be written, but no longer than `within`.
    pub(super) async fn close(self, within: Duration, may_leave: impl Fn(PeerId) -> bool) {
        for (id, _) in self.standing() {
            if may_leave(id) {
                self.send(id, Request::Goodbye(v1::Goodbye {}));
            }
        }
        let standing = self
            .by_id
            .into_values()
            .filter(|peer| peer.scheduler.is_some());
        // Without its outbox a session ends when the scheduler has read everything.
        let sessions: Vec<_> = standing.map(|peer| peer.session).collect();
        let _ = tokio::time::timeout(within, futures::future::join_all(sessions)).await;
    }
}

/// Somewhere between half and all of 50 ms, doubled with each failure, up to 2 s. Nothing before
/// the first failure.
pub(super) fn backoff(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let full = FIRST_BACKOFF
        .saturating_mul(1 << (failures - 1).min(16))
        .min(MAX_BACKOFF);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}
