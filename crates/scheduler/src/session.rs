//! Workers as this scheduler knows them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use domain::lane::{Class, Running};
use proto::v1::{Drain, WorkResponse, work_response};
use rustc_hash::FxHashSet;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tonic::Status;

use crate::demand::{Demand, EVERY};
use crate::dispatch::Bell;

/// Lane groups that a scheduler has at most.
pub(crate) const MAX_GROUPS: usize = 16;

/// What goes down a worker's stream.
pub(crate) type Outbound = mpsc::Sender<Result<WorkResponse, Status>>;

/// Messages that may wait for a worker to read them. One that doesn't is cut off: it would fill the memory.
pub(crate) const UNREAD: usize = 8_192;

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Capabilities {
    /// The tenant it serves; 0: all.
    pub(crate) tenant: i32,
    /// The types it has handlers for.
    pub(crate) types: FxHashSet<String>,
    /// The queues it serves; empty: all.
    pub(crate) queues: FxHashSet<String>,
}

impl Capabilities {
    /// Whether it can run a type of a tenant's queue.
    pub(crate) fn serve(&self, tenant: i32, queue: &str, job_type: &str) -> bool {
        (self.tenant == 0 || self.tenant == tenant)
            && self.types.contains(job_type)
            && (self.queues.is_empty() || self.queues.contains(queue))
    }
}

/// What a worker says of itself, for people.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) pool: String,
    pub(crate) version: String,
    /// How many attempts it runs at a time.
    pub(crate) slots: u32,
}

/// What a worker's last heartbeat said.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) at: SystemTime,
    pub(crate) running: u32,
    /// It takes nothing new, and leaves.
    pub(crate) draining: bool,
}

/// One worker process, over all its connections.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker_id: Arc<str>,
    pub(crate) number: u64,
    pub(crate) capabilities: Capabilities,
    pub(crate) profile: Profile,
    begin: Instant,
    /// Microseconds after `begin` at which its lease runs out.
    lease_until: AtomicU64,
    gone: AtomicBool,
    /// How many tasks it allows to be under way from here.
    window: AtomicI64,
    /// How many are.
    under_way: AtomicI64,
    /// How many are, by the group that claimed them.
    by_group: [AtomicI64; MAX_GROUPS],
    /// How many of them are suspects.
    suspects: AtomicU32,
    /// The last number that it told of its permit for suspects; odd: they may be handed out.
    permit: AtomicU64,
    /// The groups that have work for it and no room, a bit each.
    wanted: AtomicU32,
    /// The group that took a slot last.
    last_taker: AtomicUsize,
    demand: Demand,
    /// Microseconds after `begin` at which something may be asked back again.
    take_back_at: AtomicU64,
    outbound: Mutex<Option<(u64, Outbound)>>,
    /// The connection by which it speaks.
    current: AtomicU64,
    /// Where its last stream came from, for people.
    address: Mutex<String>,
    heard: Mutex<Heard>,
    /// Somebody wants it to leave: what it is told by each stream until it is gone.
    drain: Mutex<Option<Drain>>,
    bell: Arc<Bell>,
}

impl Session {
    pub(crate) fn address(&self) -> String {
        lock(&self.address).clone()
    }

    pub(crate) fn note_address(&self, address: String) {
        *lock(&self.address) = address;
    }

    /// Its heartbeat came.
    pub(crate) fn hear(&self, running: u32, draining: bool) {
        let at = SystemTime::now();
        *lock(&self.heard) = Heard {
            at,
            running,
            draining,
        };
    }

    /// Its last heartbeat.
    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    /// Tells it to leave.
    pub(crate) fn drain(&self, drain: Drain) {
        *lock(&self.drain) = Some(drain);
        self.send(work_response::Message::Drain(drain));
    }

    /// Tells a new stream what an older one may not have brought.
    pub(crate) fn drain_again(&self) {
        if let Some(drain) = *lock(&self.drain) {
            self.send(work_response::Message::Drain(drain));
        }
    }

    /// How many more tasks it takes from a group now; none while it isn't connected, and none once its
    /// lease has run out: one that hangs keeps its connection, and would be handed what was just taken
    /// from it.
    pub(crate) fn free(&self, group: usize) -> u32 {
        if self.is_over() || !self.is_connected() {
            return 0;
        }
        let free = self.window.load(Ordering::Acquire) - self.under_way.load(Ordering::Acquire);
        u32::try_from(free.min(self.share_left(group))).unwrap_or(0)
    }

    /// How many more tasks a group may have here while others want room too: an even part of the window,
    /// or, where that is less than one, the room that another group had last.
    fn share_left(&self, group: usize) -> i64 {
        let others = self.wanted.load(Ordering::Acquire) & !(1 << group);
        if others == 0 {
            return i64::MAX;
        }
        let share = self.window.load(Ordering::Acquire) / (i64::from(others.count_ones()) + 1);
        if share == 0 {
            return i64::from(self.last_taker.load(Ordering::Acquire) != group);
        }
        share - self.by_group[group].load(Ordering::Acquire)
    }

    /// Whether a group has work for it that it has no room for.
    pub(crate) fn set_wanted(&self, group: usize, wanted: bool) {
        if wanted {
            self.wanted.fetch_or(1 << group, Ordering::AcqRel);
        } else {
            self.wanted.fetch_and(!(1 << group), Ordering::AcqRel);
        }
    }

    /// So much waits in a group that it could run, suspects among it or not.
    pub(crate) fn note_waiting(&self, group: usize, waiting: u64, suspects: bool) {
        self.demand
            .note(group, (waiting, suspects), self.under_way());
    }

    pub(crate) fn demand(&self) -> &Demand {
        &self.demand
    }

    pub(crate) fn under_way(&self) -> i64 {
        self.under_way.load(Ordering::Acquire)
    }

    /// How many tasks are under way beyond its window.
    pub(crate) fn beyond_window(&self) -> u64 {
        let beyond = self.under_way() - self.window.load(Ordering::Acquire);
        u64::try_from(beyond).unwrap_or(0)
    }

    /// Whether something may be asked back of it now: of all groups one may, and then none for a while.
    pub(crate) fn may_take_back(&self) -> bool {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now = micros(self.begin.elapsed());
        let next = now.saturating_add(micros(EVERY));
        let set = |at| (now >= at).then_some(next);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.take_back_at
            .fetch_update(success, failure, set)
            .is_ok()
    }

    /// Whether an attempt was claimed for this worker, and may have been: the name alone is its own choice.
    pub(crate) fn may_hold(&self, running: &Running) -> bool {
        let tenant = self.capabilities.tenant;
        *running.worker == *self.worker_id && (tenant == 0 || tenant == running.class.tenant)
    }

    /// One of its slots, taken whether it is free or not.
    pub(crate) fn take(self: &Arc<Self>, group: usize) -> Slot {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        self.by_group[group].fetch_add(1, Ordering::AcqRel);
        self.last_taker.store(group, Ordering::Release);
        Slot {
            session: Arc::clone(self),
            group,
            is_suspects: false,
        }
    }

    /// A slot, if one is free for the group.
    pub(crate) fn try_take(self: &Arc<Self>, group: usize) -> Option<Slot> {
        if self.share_left(group) <= 0 {
            return None;
        }
        let slot = self.take(group);
        let within = self.under_way.load(Ordering::Acquire) <= self.window.load(Ordering::Acquire);
        within.then_some(slot)
    }

    /// Whether it takes more of a class, if it has room: suspects one at a time, so that none is lost with
    /// another.
    pub(crate) fn takes(&self, class: Class) -> bool {
        !class.suspect || (self.suspects.load(Ordering::SeqCst) == 0 && self.has_permit())
    }

    fn has_permit(&self) -> bool {
        !self.permit.load(Ordering::SeqCst).is_multiple_of(2)
    }

    /// The last number of the permit, once it is true: one that has been asked back counts on while something is
    /// under way by it.
    pub(crate) fn permit(&self) -> u64 {
        let permit = self.permit.load(Ordering::SeqCst);
        // In this order: whoever takes a slot for a suspect counts it first, and then looks at the permit.
        match permit.is_multiple_of(2) && self.suspects.load(Ordering::SeqCst) > 0 {
            true => permit.saturating_sub(1),
            false => permit,
        }
    }

    pub(crate) fn set_window(&self, tasks: u32, permit: u64) {
        self.window.store(i64::from(tasks), Ordering::Release);
        self.permit.store(permit, Ordering::SeqCst);
        self.demand.touch();
        self.bell.ring();
    }

    /// Its lease lasts that much longer from now.
    pub(crate) fn renew(&self, lease: Duration) {
        let until = (self.begin.elapsed() + lease).as_micros();
        self.lease_until
            .store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// It said goodbye.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether it said goodbye: it holds nothing any more.
    pub(crate) fn has_left(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether its lease has run out, or it left.
    pub(crate) fn is_over(&self) -> bool {
        let now = u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.has_left() || now >= self.lease_until.load(Ordering::Acquire)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.lock_outbound()
            .as_ref()
            .is_some_and(|(_, outbound)| !outbound.is_closed())
    }

    /// Sends a message down its stream; lost if it isn't connected, which Hello sets right. A worker that has left
    /// too much unread isn't connected from here on.
    pub(crate) fn send(&self, message: work_response::Message) {
        let mut stream = self.lock_outbound();
        let Some((connection, outbound)) = &*stream else {
            return;
        };
        let message = Ok(WorkResponse {
            message: Some(message),
        });
        if let Err(TrySendError::Full(_)) = outbound.try_send(message) {
            tracing::warn!(
                event = "worker_does_not_read",
                worker_id = &*self.worker_id,
                unread = UNREAD,
                "a worker doesn't read what it is sent; its stream is cut"
            );
            // What it says by that stream doesn't count any more, so the stream ends.
            let cut =
                self.current
                    .compare_exchange(*connection, 0, Ordering::AcqRel, Ordering::Acquire);
            cut.ok();
            *stream = None;
        }
    }

    /// From here on messages go down this stream.
    pub(crate) fn attach(&self, connection: u64, outbound: Outbound) {
        *self.lock_outbound() = Some((connection, outbound));
        self.bell.ring();
    }

    /// Nothing more goes down the stream there is, and nothing that comes from it counts: a newer one is being
    /// opened.
    pub(crate) fn suspend(&self, newer: u64) {
        *self.lock_outbound() = None;
        self.current.store(newer, Ordering::Release);
    }

    /// Whether what comes by this connection counts.
    pub(crate) fn is_current(&self, connection: u64) -> bool {
        self.current.load(Ordering::Acquire) == connection
    }

    /// A stream broke; unless a newer one is there already, nothing goes out any more.
    pub(crate) fn detach(&self, connection: u64) {
        let mut outbound = self.lock_outbound();
        if outbound
            .as_ref()
            .is_some_and(|(current, _)| *current == connection)
        {
            *outbound = None;
        }
    }

    fn lock_outbound(&self) -> MutexGuard<'_, Option<(u64, Outbound)>> {
        lock(&self.outbound)
    }
}

/// One task under way on a worker. The worker's room is counted by these alone, so it can't leak.
#[derive(Debug)]
pub(crate) struct Slot {
    session: Arc<Session>,
    group: usize,
    is_suspects: bool,
}

impl Slot {
    /// The same for a suspect, if the worker has none and it may have one.
    pub(crate) fn for_suspect(mut self) -> Option<Self> {
        let (suspects, order) = (&self.session.suspects, Ordering::SeqCst);
        suspects.compare_exchange(0, 1, order, order).ok()?;
        self.is_suspects = true;
        self.session.has_permit().then_some(self)
    }

    /// The same with what the worker has in it already.
    #[must_use]
    pub(crate) fn of_suspect(mut self, is_suspect: bool) -> Self {
        if is_suspect && !self.is_suspects {
            self.session.suspects.fetch_add(1, Ordering::SeqCst);
            self.is_suspects = true;
        }
        self
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let session = &self.session;
        session.under_way.fetch_sub(1, Ordering::AcqRel);
        session.by_group[self.group].fetch_sub(1, Ordering::AcqRel);
        if self.is_suspects {
            session.suspects.fetch_sub(1, Ordering::SeqCst);
            session.demand.touch();
            session.bell.ring();
        }
        if session.wanted.load(Ordering::Acquire) & !(1 << self.group) != 0 {
            session.bell.ring();
        }
    }
}

/// A worker's tenant and name, and its process's incarnation.
type WorkerProcess = (i32, String, [u8; 16]);

/// All workers that this scheduler knows, until some time after their leases have run out.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_process: Mutex<BTreeMap<WorkerProcess, Arc<Session>>>,
    next: AtomicU64,
    bell: Arc<Bell>,
}

impl Sessions {
    /// Rings `bell` when a worker has room that it hadn't.
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        Self {
            by_process: Mutex::default(),
            next: AtomicU64::new(1),
            bell,
        }
    }

    /// A number for a new session or connection.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The session of this worker process: the one there is, or a new one.
    pub(crate) fn open(
        &self,
        worker_id: &str,
        incarnation: [u8; 16],
        (capabilities, profile): (Capabilities, Profile),
        lease: Duration,
    ) -> Arc<Session> {
        let number = self.next_number();
        let mut sessions = self
            .by_process
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.is_connected() || !session.is_over());
        let key = (capabilities.tenant, worker_id.to_owned(), incarnation);
        // One whose lease has run out was declared lost; what it comes back with is judged anew.
        if let Some(known) = sessions.get(&key).filter(|session| !session.is_over()) {
            known.renew(lease);
            return Arc::clone(known);
        }
        if let Some(before) = sessions.get(&key) {
            before.suspend(number);
        }
        let demand = Demand::new(profile.slots, self.bell.groups());
        let session = Arc::new(Session {
            worker_id: Arc::from(worker_id),
            number,
            capabilities,
            profile,
            begin: Instant::now(),
            lease_until: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            window: AtomicI64::new(0),
            under_way: AtomicI64::new(0),
            by_group: Default::default(),
            suspects: AtomicU32::new(0),
            permit: AtomicU64::new(0),
            wanted: AtomicU32::new(0),
            last_taker: AtomicUsize::new(usize::MAX),
            demand,
            take_back_at: AtomicU64::new(0),
            outbound: Mutex::default(),
            current: AtomicU64::new(0),
            address: Mutex::default(),
            heard: Mutex::new(Heard {
                at: SystemTime::now(),
                running: 0,
                draining: false,
            }),
            drain: Mutex::default(),
            bell: Arc::clone(&self.bell),
        });
        session.renew(lease);
        sessions.insert(key, Arc::clone(&session));
        session
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        let sessions = self.lock();
        sessions.values().cloned().collect()
    }

    /// Another process that calls itself like this one, if one is connected.
    pub(crate) fn namesake(&self, session: &Arc<Session>) -> Option<Arc<Session>> {
        let is_namesake = |other: &Arc<Session>| {
            !Arc::ptr_eq(other, session)
                && other.worker_id == session.worker_id
                && other.capabilities.tenant == session.capabilities.tenant
        };
        self.connected().into_iter().find(is_namesake)
    }

    /// Those that tasks can be sent to.
    pub(crate) fn connected(&self) -> Vec<Arc<Session>> {
        let sessions = self.lock();
        let connected = |session: &&Arc<Session>| session.is_connected() && !session.is_over();
        sessions.values().filter(connected).cloned().collect()
    }

    /// Whether a worker of this name has a lease here.
    pub(crate) fn is_live(&self, worker_id: &str) -> bool {
        let sessions = self.lock();
        let mut sessions = sessions.values();
        sessions.any(|session| *session.worker_id == *worker_id && !session.is_over())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkerProcess, Arc<Session>>> {
        self.by_process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proto::v1::Demand;

    use super::*;

    fn session(window: u32) -> Arc<Session> {
        let sessions = Sessions::new(Arc::new(Bell::new(2)));
        let (types, queues) = (FxHashSet::default(), FxHashSet::default());
        let capabilities = Capabilities {
            tenant: 0,
            types,
            queues,
        };
        let profile = Profile {
            slots: 4,
            ..Profile::default()
        };
        let session = sessions.open(
            "w",
            [0; 16],
            (capabilities, profile),
            Duration::from_secs(60),
        );
        let (outbound, receiver) = mpsc::channel(UNREAD);
        session.attach(1, outbound);
        session.set_window(window, 1);
        // The stream stays open for the length of the test.
        std::mem::forget(receiver);
        session
    }

    #[test]
    fn a_slot_is_given_back_when_it_is_dropped() {
        let session = session(2);
        let slots: Vec<Slot> = (0..3).map_while(|_| session.try_take(0)).collect();
        assert_eq!((slots.len(), session.free(0)), (2, 0));
        drop(slots);
        assert_eq!(session.free(0), 2);
    }

    #[test]
    fn groups_that_want_room_share_it_evenly() {
        let session = session(4);
        session.set_wanted(1, true);
        let mine: Vec<Slot> = (0..4).map_while(|_| session.try_take(0)).collect();
        assert_eq!(mine.len(), 2, "half is left for the other");
        assert_eq!(session.free(1), 2);
    }

    #[test]
    fn who_does_not_read_is_cut_off() {
        let session = session(1);
        let (outbound, mut unread) = mpsc::channel(UNREAD);
        session.suspend(2);
        session.attach(2, outbound);
        let message = || work_response::Message::Demand(Demand::default());
        (0..UNREAD).for_each(|_| session.send(message()));
        assert!(session.is_connected() && session.is_current(2));
        session.send(message());
        assert!(!session.is_connected() && !session.is_current(2));
        let left = std::iter::from_fn(|| unread.try_recv().ok());
        assert_eq!(left.count(), UNREAD);
    }

    #[test]
    fn one_suspect_at_a_time_is_taken() {
        let session = session(4);
        let suspect = |group| session.try_take(group).and_then(Slot::for_suspect);
        let slot = suspect(0);
        assert!(slot.is_some());
        assert!(suspect(1).is_none(), "whichever group it is of");
        let other = session.try_take(1);
        assert!(other.is_some(), "others run beside it");
        drop(slot);
        assert!(suspect(1).is_some());
        let slot = suspect(0);
        session.set_window(4, 2);
        assert_eq!(session.permit(), 1, "one is under way by it");
        drop(slot);
        assert!(suspect(1).is_none(), "the permit is another scheduler's");
        assert_eq!(session.permit(), 2);
        assert!(session.try_take(1).is_some());
        session.set_window(4, 3);
        assert!(suspect(1).is_some());
    }

    #[test]
    fn one_slot_goes_from_group_to_group() {
        let session = session(1);
        session.set_wanted(1, true);
        let slot = session.try_take(0).unwrap();
        drop(slot);
        assert!(session.try_take(0).is_none(), "it is the other's turn");
        session.set_wanted(0, true);
        assert!(session.try_take(1).is_some());
    }

    #[test]
    fn processes_of_one_name_are_two_workers_that_are_known_as_namesakes() {
        let sessions = Sessions::new(Arc::new(Bell::new(1)));
        let (outbound, _receiver) = mpsc::channel(UNREAD);
        let open = |incarnation, tenant| {
            let (types, queues) = (FxHashSet::default(), FxHashSet::default());
            let capabilities = Capabilities {
                tenant,
                types,
                queues,
            };
            let lease = Duration::from_secs(60);
            let session = sessions.open(
                "w",
                [incarnation; 16],
                (capabilities, Profile::default()),
                lease,
            );
            session.attach(u64::from(incarnation), outbound.clone());
            session
        };
        let first = open(1, 0);
        assert!(sessions.namesake(&first).is_none());
        assert!(
            Arc::ptr_eq(&first, &open(1, 0)),
            "its next stream is its own"
        );
        let _of_a_tenant = open(3, 7);
        assert!(sessions.namesake(&first).is_none(), "another tenant's");
        let second = open(2, 0);
        let namesake = sessions.namesake(&second).unwrap();
        assert!(Arc::ptr_eq(&namesake, &first));
        first.detach(1);
        assert!(sessions.namesake(&second).is_none(), "it was restarted");
    }

    #[test]
    fn a_worker_whose_lease_is_over_gets_nothing_though_it_is_connected() {
        let session = session(4);
        session.renew(Duration::ZERO);
        assert_eq!(session.free(0), 0);
    }
}
