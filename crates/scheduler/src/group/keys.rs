use std::collections::VecDeque;
use std::time::Duration;

use domain::ExecutionId;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::input::{IdempotencyKey, NotTaken, Taken};

/// How many keys are remembered: what is beyond is asked of the database.
const MOST: usize = 100_000;
/// How long a key is remembered: far less than it is kept in the database.
const LASTS: Duration = Duration::from_secs(600);

/// The execution that an idempotency key names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) fingerprint: i64,
    pub(crate) id: ExecutionId,
}

impl Named {
    /// What a submission under the key gets.
    pub(crate) fn verdict(&self, key: &IdempotencyKey) -> Result<Taken, NotTaken> {
        match self.fingerprint == key.fingerprint {
            true => Ok(Taken {
                id: self.id,
                duplicate: true,
            }),
            false => Err(NotTaken::KeyConflict(self.id)),
        }
    }
}

/// Keys that are known to be in the database: those of late, so that a submission that is sent again soon
/// is answered without it.
#[derive(Default)]
pub(super) struct RecentKeys {
    named: FxHashMap<[u8; 16], Named>,
    order: VecDeque<(Instant, [u8; 16])>,
}

impl RecentKeys {
    pub(super) fn get(&self, hash: &[u8; 16]) -> Option<&Named> {
        self.named.get(hash)
    }

    pub(super) fn insert(&mut self, hash: [u8; 16], named: Named) {
        self.forget_old();
        if self.named.insert(hash, named).is_none() {
            self.order.push_back((Instant::now(), hash));
        }
    }

    pub(super) fn remove(&mut self, hash: &[u8; 16]) {
        self.named.remove(hash);
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.named.clear();
        self.order.clear();
    }

    fn forget_old(&mut self) {
        let old = |(since, _): &&(Instant, _)| since.elapsed() > LASTS;
        while self.order.len() >= MOST || self.order.front().as_ref().is_some_and(old) {
            if let Some((_, hash)) = self.order.pop_front() {
                self.named.remove(&hash);
            }
        }
    }
}
