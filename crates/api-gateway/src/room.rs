//! How much memory the requests under way may take, so that no caller's burst harms the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The memory that all requests under way share, in bytes.
pub(crate) const CAPACITY: u64 = 64 << 20;

/// The memory of a gateway that is for requests. A tenant may hold as much as is left for the others: alone it
/// gets half, two get a third each, and there is always something left for the next one. (The rule is that of
/// shared-memory switches: Choudhury and Hahne, "Dynamic queue length thresholds", 1998, with a factor of one.)
pub(crate) struct Room {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: u64,
    by_tenant: HashMap<u32, u64>,
}

/// A request's part of the room, given back when it is dropped.
pub(crate) struct Share {
    room: Arc<Room>,
    tenant: u32,
    bytes: AtomicU64,
}

/// The tenant holds as much as it may for now.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Full;

impl Room {
    pub(crate) fn new() -> Arc<Self> {
        let held = Mutex::default();
        Arc::new(Self { held })
    }

    /// A share of nothing yet.
    pub(crate) fn share_of(self: &Arc<Self>, tenant: u32) -> Arc<Share> {
        Arc::new(Share {
            room: Arc::clone(self),
            tenant,
            bytes: AtomicU64::new(0),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes so many bytes more, at once or not at all.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Full> {
        self.room.held().take(self.tenant, bytes)?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        if bytes > 0 {
            self.room.held().give_back(self.tenant, bytes);
        }
    }
}

impl Held {
    fn take(&mut self, tenant: u32, bytes: u64) -> Result<(), Full> {
        let own = self.by_tenant.get(&tenant).copied().unwrap_or(0);
        let left = CAPACITY.saturating_sub(self.all.saturating_add(bytes));
        if own.saturating_add(bytes) > left {
            return Err(Full);
        }
        self.all += bytes;
        self.by_tenant.insert(tenant, own + bytes);
        Ok(())
    }

    fn give_back(&mut self, tenant: u32, bytes: u64) {
        self.all -= bytes;
        if let Some(own) = self.by_tenant.get_mut(&tenant) {
            *own -= bytes;
            if *own == 0 {
                self.by_tenant.remove(&tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn fill(room: &Arc<Room>, tenant: u32) -> (u64, Arc<Share>) {
        let share = room.share_of(tenant);
        let taken = (0..).take_while(|_| share.take(MIB).is_ok()).count();
        (taken as u64, share)
    }

    #[test]
    fn alone_a_tenant_gets_half_and_the_next_half_of_the_rest() {
        let room = Room::new();
        let (first, _held) = fill(&room, 1);
        assert_eq!(first, 32);
        let (second, _held) = fill(&room, 2);
        assert_eq!(second, 16);
        assert_eq!(
            room.share_of(1).take(1),
            Err(Full),
            "the first gets no more"
        );
    }

    #[test]
    fn however_many_fill_it_the_next_gets_something() {
        let room = Room::new();
        let shares: Vec<_> = (1..=12).map(|tenant| fill(&room, tenant)).collect();
        let small = room.share_of(100);
        assert_eq!(
            small.take(64 << 10),
            Ok(()),
            "{} hold all they may",
            shares.len()
        );
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let room = Room::new();
        drop(fill(&room, 1));
        let held = room.held();
        assert_eq!((held.all, held.by_tenant.len()), (0, 0));
    }
}
