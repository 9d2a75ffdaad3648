//! Handing executions to lanes that this scheduler doesn't own, or can't write to for a key's sake: through
//! the inbox, on a connection of their own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::{ExecutionId, Micros};
use futures::future::BoxFuture;
use rustc_hash::FxHashMap;
use store::{Error, KnownKey, NewExecution, NewKey, PostWork, Posted, WindowMap};
use tokio::time::Instant;

use crate::group::{IdempotencyKey, Incoming, Named, NotTaken, Taken, Verdicts};
use crate::lifecycle;
use crate::shared::{Known, Shared};

/// How long an item waits for a key that a foreign transaction holds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a race about keys is run again.
const TRIES: usize = 5;

type Verdict = Result<Taken, NotTaken>;

/// Stores executions for whoever owns their lanes; gives a verdict for each. The hasty wait for no key.
pub(crate) async fn post(shared: &Arc<Shared>, items: Vec<Incoming>, hasty: bool) -> Verdicts {
    let mut verdicts: Vec<Option<Verdict>> = vec![None; items.len()];
    let mut posting = Posting {
        shared,
        poster: shared.database.poster(),
        items: &items,
        until: Instant::now() + if hasty { Duration::ZERO } else { PATIENCE },
    };
    posting
        .post_all((0..items.len()).collect(), &mut verdicts)
        .await;
    let unknown = || Err(NotTaken::InDoubt);
    verdicts
        .into_iter()
        .map(|verdict| verdict.unwrap_or_else(unknown))
        .collect()
}

struct Posting<'a> {
    shared: &'a Shared,
    poster: Box<dyn PostWork>,
    items: &'a [Incoming],
    until: Instant,
}

impl Posting<'_> {
    /// Posts the items of these places together; in halves where a foreign transaction is in the way, so
    /// that in the end only the item waits whose key it holds.
    fn post_all<'b>(
        &'b mut self,
        mut places: Vec<usize>,
        verdicts: &'b mut Vec<Option<Verdict>>,
    ) -> BoxFuture<'b, ()> {
        Box::pin(async move {
            for _ in 0..TRIES {
                match self.try_post(&mut places, verdicts).await {
                    Ok(()) => return,
                    Err(Error::KeyTaken { .. }) => {}
                    Err(Error::Blocked { .. }) if places.len() > 1 => {
                        let half = places.split_off(places.len() / 2);
                        self.post_all(places, verdicts).await;
                        return self.post_all(half, verdicts).await;
                    }
                    Err(Error::Blocked { .. }) if Instant::now() < self.until => {}
                    Err(error) => return self.give_up(&places, &error, verdicts),
                }
            }
            let error = Error::Blocked { statement: "post" };
            self.give_up(&places, &error, verdicts);
        })
    }

    /// Answers what is known already, and posts the rest in one transaction.
    async fn try_post(
        &mut self,
        places: &mut Vec<usize>,
        verdicts: &mut [Option<Verdict>],
    ) -> Result<(), Error> {
        let known = self.known(places).await?;
        let mut first: FxHashMap<[u8; 16], (usize, IdempotencyKey)> = FxHashMap::default();
        let mut again: Vec<(usize, usize)> = Vec::new();
        places.retain(|place| {
            let Some(key) = self.items[*place].key else {
                return true;
            };
            if let Some(known) = known.iter().find(|known| known.key == key.hash) {
                let (fingerprint, id) = (known.fingerprint, known.id);
                verdicts[*place] = Some(Named { fingerprint, id }.verdict(&key));
                return false;
            }
            match first.get(&key.hash) {
                Some((winner, _)) => again.push((*place, *winner)),
                None => drop(first.insert(key.hash, (*place, key))),
            }
            !again.iter().any(|(loser, _)| loser == place)
        });
        let posted = self.post_new(places).await;
        if posted.is_err() {
            // They hear what becomes of the one whose key they share.
            places.extend(again.iter().map(|(loser, _)| *loser));
        }
        let ids = posted?;
        for (place, id) in places.iter().zip(&ids) {
            let duplicate = false;
            verdicts[*place] = Some(Ok(Taken { id: *id, duplicate }));
        }
        for (place, winner) in again {
            let (Some(Ok(taken)), Some(key)) = (&verdicts[winner], self.items[place].key) else {
                continue;
            };
            let fingerprint = self.items[winner].key.map_or(0, |key| key.fingerprint);
            let id = taken.id;
            verdicts[place] = Some(Named { fingerprint, id }.verdict(&key));
        }
        Ok(())
    }

    async fn known(&mut self, places: &[usize]) -> Result<Vec<KnownKey>, Error> {
        let keys = places.iter().filter_map(|place| self.items[*place].key);
        let keys: Vec<[u8; 16]> = keys.map(|key| key.hash).collect();
        match keys.is_empty() {
            true => Ok(Vec::new()),
            false => self.poster.known_keys(&keys).await,
        }
    }

    async fn post_new(&mut self, places: &[usize]) -> Result<Vec<ExecutionId>, Error> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let windows = Arc::clone(&self.shared.windows.borrow());
        let at = self.shared.clock.now();
        let numbers = self.poster.numbers(places.len()).await?;
        let items = places.iter().map(|place| &self.items[*place]);
        let posted: Vec<(Posted, Known)> = items
            .zip(numbers)
            .map(|(item, seq)| posted(self.shared, &windows, item, (seq, at)))
            .collect();
        let (rows, known): (Vec<Posted>, Vec<Known>) = posted.into_iter().unzip();
        let begin = SystemTime::now();
        self.poster.post(&windows, &rows, at).await?;
        for (place, known) in places.iter().zip(&known) {
            lifecycle::tell_posted(self.shared, known, self.items[*place].arrived, begin);
        }
        Ok(known.iter().map(|known| known.id).collect())
    }

    fn give_up(&self, places: &[usize], error: &Error, verdicts: &mut [Option<Verdict>]) {
        tracing::warn!(event = "post_failed", items = places.len(), %error,
            "executions can't be put into the inbox");
        let why = match error {
            Error::Blocked { .. } | Error::KeyTaken { .. } => NotTaken::KeyHeld,
            error if error.is_refusal() => NotTaken::NotNow,
            _ => NotTaken::InDoubt,
        };
        for place in places {
            verdicts[*place].get_or_insert(Err(why.clone()));
        }
    }
}

fn posted(
    shared: &Shared,
    windows: &WindowMap,
    item: &Incoming,
    (seq, at): (u64, Micros),
) -> (Posted, Known) {
    let work = item.work.as_of(at);
    let head = &work.head;
    let home = head.due.unwrap_or(at);
    let id = ExecutionId::new(item.lane, seq, home, &shared.id_key);
    let key = item.key.map(|key| NewKey {
        key: key.hash,
        fingerprint: key.fingerprint,
        tenant: head.tenant,
        id,
    });
    let execution = NewExecution {
        lane: item.lane,
        seq,
        home: home.hour(),
        head: Arc::clone(head),
        place: Posted::place(windows, home.hour()),
    };
    let saved = None;
    (Posted { execution, key }, Known { id, work, saved })
}
