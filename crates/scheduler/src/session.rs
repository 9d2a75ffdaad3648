//! Workers as this scheduler knows them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::v1::{WorkResponse, work_response};
use rustc_hash::FxHashSet;
use tokio::sync::mpsc;
use tonic::Status;

use crate::dispatch::Bell;

/// What goes down a worker's stream.
pub(crate) type Outbound = mpsc::UnboundedSender<Result<WorkResponse, Status>>;

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

/// One worker process, over all its connections.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker_id: Arc<str>,
    pub(crate) number: u64,
    pub(crate) capabilities: Capabilities,
    begin: Instant,
    /// Microseconds after `begin` at which its lease runs out.
    lease_until: AtomicU64,
    gone: AtomicBool,
    /// How many tasks it allows to be under way from here.
    window: AtomicI64,
    /// How many are.
    under_way: AtomicI64,
    outbound: Mutex<Option<(u64, Outbound)>>,
    bell: Arc<Bell>,
}

impl Session {
    /// How many more tasks it takes now; none while it isn't connected, and none once its lease has run
    /// out: one that hangs keeps its connection, and would be handed what was just taken from it.
    pub(crate) fn free(&self) -> u32 {
        if self.is_over() || !self.is_connected() {
            return 0;
        }
        let free = self.window.load(Ordering::Acquire) - self.under_way.load(Ordering::Acquire);
        u32::try_from(free).unwrap_or(0)
    }

    /// One of its slots, taken whether it is free or not.
    pub(crate) fn take(self: &Arc<Self>) -> Slot {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        Slot(Arc::clone(self))
    }

    /// A slot, if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let slot = self.take();
        let within = self.under_way.load(Ordering::Acquire) <= self.window.load(Ordering::Acquire);
        within.then_some(slot)
    }

    pub(crate) fn set_window(&self, tasks: u32) {
        self.window.store(i64::from(tasks), Ordering::Release);
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

    /// Whether its lease has run out, or it left.
    pub(crate) fn is_over(&self) -> bool {
        let now = u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.gone.load(Ordering::Acquire) || now >= self.lease_until.load(Ordering::Acquire)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.lock_outbound()
            .as_ref()
            .is_some_and(|(_, outbound)| !outbound.is_closed())
    }

    /// Sends a message down its stream; lost if it isn't connected, which Hello sets right.
    pub(crate) fn send(&self, message: work_response::Message) {
        if let Some((_, outbound)) = &*self.lock_outbound() {
            let _ = outbound.send(Ok(WorkResponse {
                message: Some(message),
            }));
        }
    }

    /// From here on messages go down this stream.
    pub(crate) fn attach(&self, connection: u64, outbound: Outbound) {
        *self.lock_outbound() = Some((connection, outbound));
        self.bell.ring();
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

    fn lock_outbound(&self) -> std::sync::MutexGuard<'_, Option<(u64, Outbound)>> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task under way on a worker. The worker's room is counted by these alone, so it can't leak.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Session>);

impl Slot {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A worker's name and its process's incarnation.
type WorkerProcess = (String, [u8; 16]);

/// All workers that this scheduler knows, until some time after their leases have run out.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_process: Mutex<HashMap<WorkerProcess, Arc<Session>>>,
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
        capabilities: Capabilities,
        lease: Duration,
    ) -> Arc<Session> {
        let number = self.next_number();
        let mut sessions = self
            .by_process
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.is_connected() || !session.is_over());
        let key = (worker_id.to_owned(), incarnation);
        // One whose lease has run out was declared lost; what it comes back with is judged anew.
        if let Some(known) = sessions.get(&key).filter(|session| !session.is_over()) {
            known.renew(lease);
            return Arc::clone(known);
        }
        let session = Arc::new(Session {
            worker_id: Arc::from(worker_id),
            number,
            capabilities,
            begin: Instant::now(),
            lease_until: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            window: AtomicI64::new(0),
            under_way: AtomicI64::new(0),
            outbound: Mutex::default(),
            bell: Arc::clone(&self.bell),
        });
        session.renew(lease);
        sessions.insert(key, Arc::clone(&session));
        session
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        let sessions = self
            .by_process
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sessions.values().cloned().collect()
    }

    /// Those that take more tasks now.
    pub(crate) fn with_room(&self) -> Vec<Arc<Session>> {
        let sessions = self
            .by_process
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sessions
            .values()
            .filter(|session| session.free() > 0)
            .cloned()
            .collect()
    }
}
