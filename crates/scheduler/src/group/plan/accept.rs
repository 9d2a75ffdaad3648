//! What comes in: submissions, and what others put into the inbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::lane::{Class, DueMark, Received, TimedEntry, Wait};
use domain::{Budgets, ExecutionId, LaneId, Micros};
use rustc_hash::FxHashMap;
use store::{DueEntry, InboxRead, NewExecution, NewKey, Place};

use super::Planner;
use crate::group::depth::Limits;
use crate::group::input::{IdempotencyKey, Incoming, NotTaken, Submit, Taken, Verdicts};
use crate::group::keys::Named;
use crate::shared::Known;

/// Heads that one group keeps in memory at most, in bytes: what is beyond is read again when it is
/// wanted.
const HEADS_BYTES: usize = 32 << 20;

impl Planner<'_> {
    /// Accepts what was submitted, or says why not. Of items with one idempotency key the first is
    /// taken, the others are its duplicates.
    pub(in crate::group) fn accept(&mut self, submits: &[Submit]) {
        for submit in submits {
            let mut verdicts: Verdicts = Vec::with_capacity(submit.items.len());
            let mut lines: BTreeMap<(LaneId, Class), Vec<(usize, &Incoming)>> = BTreeMap::new();
            let mut again: Vec<(usize, IdempotencyKey)> = Vec::new();
            let mut first: FxHashMap<[u8; 16], usize> = FxHashMap::default();
            for (place, item) in submit.items.iter().enumerate() {
                verdicts.push(Err(NotTaken::NotOwner(item.lane)));
                let of_key = item
                    .key
                    .map(|key| (key, *first.entry(key.hash).or_insert(place)));
                match of_key {
                    Some((key, first)) if first != place || self.named(&key).is_some() => {
                        again.push((place, key));
                        continue;
                    }
                    _ => {}
                }
                match self.admit(item) {
                    Ok(()) => {
                        let line = lines.entry((item.lane, item.work.class()));
                        line.or_default().push((place, item));
                    }
                    Err(why) => verdicts[place] = Err(why),
                }
            }
            for ((lane, class), items) in lines {
                self.accept_line(lane, class, items, &mut verdicts);
            }
            for (place, key) in again {
                verdicts[place] = match self.named(&key) {
                    Some(named) => named.verdict(&key),
                    // What became of the first item of that key became of this one.
                    None => verdicts[first[&key.hash]].clone(),
                };
            }
            self.effects.verdicts.push(verdicts);
        }
    }

    /// Refuses what would exceed the depth of its queue or tenant.
    fn admit(&mut self, item: &Incoming) -> Result<(), NotTaken> {
        let limits = Limits {
            lanes: self.lanes,
            options: self.options,
        };
        self.depths.admit(&limits, item)
    }

    /// What an idempotency key names: an execution that is stored, or one of this batch.
    fn named(&self, key: &IdempotencyKey) -> Option<Named> {
        let recent = self.known_keys.get(&key.hash);
        recent.or_else(|| self.new_keys.get(&key.hash)).copied()
    }

    /// Accepts items of one line together: the numbers of those that are due at once follow each other.
    fn accept_line(
        &mut self,
        lane: LaneId,
        class: Class,
        items: Vec<(usize, &Incoming)>,
        verdicts: &mut [Result<Taken, NotTaken>],
    ) {
        let due = |item: &Incoming| item.work.head.due;
        let (later, now): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|(_, item)| due(item).is_some());
        let count = u32::try_from(now.len()).unwrap_or(u32::MAX);
        let Some(draft) = self.draft(lane) else {
            return;
        };
        let stored = draft.stores(class);
        let first = if count > 0 {
            draft.accept(class, count)
        } else {
            0
        };
        for (seq, (place, item)) in (first..).zip(now) {
            let known = self.store(item, seq, self.at);
            verdicts[place] = taken(known.id);
            if !stored {
                self.remember(known);
            }
        }
        for (place, item) in later {
            let due = due(item).unwrap_or(self.at);
            let Some(seq) = self.draft(lane).map(|draft| draft.schedule(class, due)) else {
                return;
            };
            self.note_due(lane, class, DueMark { due, seq });
            verdicts[place] = taken(self.store(item, seq, due).id);
        }
    }

    /// The rows of an execution that was accepted.
    fn store(&mut self, item: &Incoming, seq: u64, home: Micros) -> Known {
        let lane = item.lane;
        let id = ExecutionId::new(lane, seq, home, self.id_key);
        let place = self.place_ahead(lane, home);
        self.batch.executions.push(NewExecution {
            lane,
            seq,
            home: home.hour(),
            head: Arc::clone(&item.work.head),
            place,
        });
        if let Some(IdempotencyKey { hash, fingerprint }) = item.key {
            let tenant = item.work.head.tenant;
            self.batch.keys.push(NewKey {
                key: hash,
                fingerprint,
                tenant,
                id,
            });
            self.new_keys.insert(hash, Named { fingerprint, id });
        }
        let known = Known {
            id,
            work: Arc::clone(&item.work),
            saved: None,
        };
        self.effects.accepted.push((known.clone(), item.arrived));
        known
    }

    /// Takes over what was read of the inboxes.
    pub(in crate::group) fn receive(&mut self, reads: Vec<InboxRead>) {
        for mut read in reads {
            // An inbox that is read anew may hold what was taken over before.
            let anew = |lane: &&domain::lane::Lane| lane.inbox_read().done.is_empty();
            if let Some(lane) = self.lanes.get(&read.lane).filter(anew) {
                let known = lane.received();
                read.entries.retain(|entry| !known.contains(&entry.seq));
            }
            for entry in &read.entries {
                let (seq, class, home) = (entry.seq, entry.class, entry.home);
                let ripe = entry.due.is_none_or(|due| due <= self.at);
                let Some(draft) = self.draft(read.lane) else {
                    break;
                };
                match entry.mark().filter(|_| !ripe) {
                    None => draft.receive(Received { seq, class, home }),
                    Some(mark) => {
                        draft.schedule_numbered(class, mark);
                        self.note_due(read.lane, class, mark);
                    }
                }
                self.effects.received.push(class);
            }
            if let Some(draft) = self.draft(read.lane) {
                draft.read_inbox(read.mark);
            }
        }
    }

    /// Writes the due entry of an execution for later, if it lies beyond what has been read of them.
    fn note_due(&mut self, lane: LaneId, class: Class, mark: DueMark) {
        let beyond = self.draft(lane).is_some_and(|draft| draft.is_beyond(mark));
        if !beyond {
            return;
        }
        let entry = TimedEntry {
            mark,
            class,
            home: mark.due.hour(),
            budgets: Budgets::default(),
            wait: Wait::Scheduled,
        };
        let place = self.place_ahead(lane, mark.due);
        self.batch.due.push(DueEntry { lane, entry, place });
    }

    /// Where the rows of a time ahead go: to its window if the lane's rows of that hour are there.
    fn place_ahead(&self, lane: LaneId, time: Micros) -> Place {
        let until = self.drafts.get(&lane).map(|draft| draft.kept_until());
        match until.is_some_and(|until| time.hour() < until) || time <= self.at {
            true => Place::Window,
            false => Place::Kept,
        }
    }

    /// Keeps what is known of an execution that waits, if there is room for it.
    pub(super) fn remember(&mut self, known: Known) {
        let room: usize = HEADS_BYTES / self.lanes.len().max(1);
        if let Some(side) = self.sides.get_mut(&known.id.lane())
            && side.heads.bytes() < room
        {
            side.heads.insert(known.id.seq(), known);
        }
    }

    /// The same of one that goes on; not if it has saved something since that isn't known here, and is read then.
    pub(super) fn remember_again(&mut self, known: Known) {
        let (lane, seq) = (known.id.lane(), known.id.seq());
        let draft = self.drafts.get(&lane);
        if draft.and_then(|draft| draft.saved(seq)) == known.saved_mark() {
            self.remember(known);
        }
    }
}

fn taken(id: ExecutionId) -> Result<Taken, NotTaken> {
    let duplicate = false;
    Ok(Taken { id, duplicate })
}
