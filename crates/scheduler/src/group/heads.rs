//! What is known of executions beside their place in a lane: read from their rows when it is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::lane::{CheckpointMark, Class, Lane, Run};
use domain::{ExecutionId, Hour, LaneId};
use rustc_hash::{FxHashMap, FxHashSet};
use store::{Error, Head, WindowMap};

use super::actor::Group;
use super::input::Input;
use crate::shared::{Known, SavedState, Shared, Work};

/// Heads that one read takes.
const HEADS_PAGE: usize = 1_000;
/// Payloads that one read takes, in bytes.
const HEADS_PAGE_BYTES: u64 = 4 << 20;

impl Group {
    /// Reads the heads at the front of a line, beside the group's work.
    pub(super) fn load_heads(
        &mut self,
        windows: &Arc<WindowMap>,
        lane: LaneId,
        run: Run,
        class: Class,
    ) {
        let seqs = self.next_in_line(lane, run, class);
        let saved = self.saved_of(lane, &seqs);
        let Some(side) = self.sides.get_mut(&lane) else {
            return;
        };
        if !side.loading.insert(class) {
            return;
        }
        let (shared, windows, own) = (
            Arc::clone(&self.shared),
            Arc::clone(windows),
            self.own.clone(),
        );
        tokio::spawn(async move {
            let page = shared.known(&windows, lane, run.home, (&seqs, HEADS_PAGE_BYTES));
            let heads = match page.await {
                Ok(heads) if !saved.is_empty() => {
                    shared
                        .with_saved(&windows, (lane, run.home), heads, &saved)
                        .await
                }
                heads => heads,
            };
            let heads = heads.unwrap_or_else(|error| {
                tracing::warn!(partition = lane.0, %error, "heads can't be read; trying again");
                Vec::new()
            });
            if heads.is_empty() {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            let _ = own.send(Input::Heads(lane, class, heads)).await;
        });
    }
}

impl Group {
    /// The numbers of a run, and of those that stand behind it in its line and have the same home.
    fn next_in_line(&self, lane: LaneId, run: Run, class: Class) -> Vec<u64> {
        let lane = self.lanes.get(&lane);
        let line = lane
            .into_iter()
            .flat_map(|lane| lane.waiting().head(class))
            .flatten();
        let behind = line
            .take(HEADS_PAGE)
            .skip_while(|other| !other.holds(run.first))
            .skip(1)
            .take_while(|other| other.home == run.home);
        let seqs = run.seqs().chain(behind.flat_map(Run::seqs));
        seqs.take(HEADS_PAGE).collect()
    }
}

impl Group {
    /// The last checkpoints of those executions that have any.
    fn saved_of(&self, lane: LaneId, seqs: &[u64]) -> Vec<(u64, CheckpointMark)> {
        let lane = self.lanes.get(&lane).filter(|lane| lane.has_saved());
        let saved = lane.into_iter().flat_map(|lane| {
            let saved = |seq: &u64| Some((*seq, lane.saved(*seq)?));
            seqs.iter().filter_map(saved)
        });
        saved.collect()
    }

    /// Takes what was read of heads in, but for what has left its line since, and what has saved something: that is
    /// read again when it is wanted.
    pub(super) fn take_heads(&mut self, lane: LaneId, class: Class, heads: Vec<(u64, Known)>) {
        let (Some(side), Some(memory)) = (self.sides.get_mut(&lane), self.lanes.get(&lane)) else {
            return;
        };
        side.loading.remove(&class);
        let line = memory.waiting().head(class).into_iter().flatten();
        // Others may have been put before those that were read.
        let waiting = line.flat_map(Run::seqs).take(2 * HEADS_PAGE);
        let waiting: FxHashSet<u64> = waiting.collect();
        for (seq, known) in heads {
            if waiting.contains(&seq) && memory.saved(seq) == known.saved_mark() {
                side.heads.insert(seq, known);
            }
        }
    }
}

impl Shared {
    /// Heads with the states that their executions saved, as far as one page of these goes.
    async fn with_saved(
        &self,
        windows: &WindowMap,
        (lane, home): (LaneId, Hour),
        mut heads: Vec<(u64, Known)>,
        saved: &[(u64, CheckpointMark)],
    ) -> Result<Vec<(u64, Known)>, Error> {
        let marks: FxHashMap<u64, CheckpointMark> = saved.iter().copied().collect();
        let of_page = heads.iter();
        let of_page = of_page.filter_map(|(seq, _)| Some((*seq, *marks.get(seq)?)));
        let of_page: Vec<(u64, CheckpointMark)> = of_page.collect();
        let what = (&of_page[..], HEADS_PAGE_BYTES);
        let states = self.database.states(windows, lane, home, what).await?;
        if states.is_empty() && !of_page.is_empty() {
            return Err(Error::Inconsistent {
                table: "checkpoint",
                what: format!(
                    "lane {lane}: the chain names {:?}, which isn't there",
                    of_page[0]
                ),
            });
        }
        let mut states: FxHashMap<u64, Bytes> = states.into_iter().collect();
        heads.retain_mut(|(seq, known)| {
            let Some(mark) = marks.get(seq).copied() else {
                return true;
            };
            let state = states.remove(seq);
            known.saved = state.map(|state| Arc::new(SavedState { mark, state }));
            known.saved.is_some()
        });
        Ok(heads)
    }
}

/// When an execution's home time is: when it is due, or else when it was accepted.
fn home_of(head: &Head) -> domain::Micros {
    head.due.unwrap_or(head.accepted)
}

impl Shared {
    /// What is known of executions of a lane and home hour, read from their rows.
    pub(crate) async fn known(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        home: Hour,
        (seqs, bytes): (&[u64], u64),
    ) -> Result<Vec<(u64, Known)>, Error> {
        let heads = self
            .database
            .heads(windows, lane, home, (seqs, bytes))
            .await?;
        let mut works = Vec::with_capacity(heads.len());
        for (seq, head) in heads {
            works.push((seq, self.work_of(head).await?));
        }
        self.note_reopened(windows, (lane, home), &mut works)
            .await?;
        let known = works.into_iter().map(|(seq, work)| {
            let id = ExecutionId::new(lane, seq, home_of(&work.head), &self.id_key);
            let work = Arc::new(work);
            let saved = None;
            (seq, Known { id, work, saved })
        });
        Ok(known.collect())
    }

    /// Notes of what has a total time since when that counts, where somebody had it run again.
    async fn note_reopened(
        &self,
        windows: &WindowMap,
        (lane, home): (LaneId, Hour),
        works: &mut [(u64, Work)],
    ) -> Result<(), Error> {
        let limited = works.iter().filter(|(_, work)| work.policy.total.is_some());
        let limited: Vec<u64> = limited.map(|(seq, _)| *seq).collect();
        if limited.is_empty() {
            return Ok(());
        }
        let reopened = self
            .database
            .reopened(windows, lane, home, &limited)
            .await?;
        for (seq, at) in reopened {
            if let Some((_, work)) = works.iter_mut().find(|(of, _)| *of == seq) {
                work.reopened = Some(at);
            }
        }
        Ok(())
    }

    /// What is known of everything that runs in a lane.
    pub(crate) async fn known_running(
        &self,
        windows: &WindowMap,
        lane: &Lane,
    ) -> Result<FxHashMap<u64, Known>, Error> {
        let mut by_home: BTreeMap<Hour, Vec<u64>> = BTreeMap::new();
        for (seq, running) in lane.running() {
            by_home.entry(running.home).or_default().push(*seq);
        }
        let mut known = FxHashMap::default();
        for (home, mut seqs) in by_home {
            while !seqs.is_empty() {
                let page = self
                    .known(windows, lane.id(), home, (&seqs, HEADS_PAGE_BYTES))
                    .await?;
                if page.is_empty() {
                    break;
                }
                known.extend(page);
                seqs.retain(|seq| !known.contains_key(seq));
            }
        }
        match known.len() == lane.running().len() {
            true => Ok(known),
            false => Err(Error::Inconsistent {
                table: "execution",
                what: format!("lane {}: running executions lack their rows", lane.id()),
            }),
        }
    }
}
