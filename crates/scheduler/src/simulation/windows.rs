//! Windows of the model: they go as PostgreSQL's leaves do, with everything in them that wasn't kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use domain::lane::CheckpointMark;
use domain::{Hour, HourRange, LaneId, Micros};
use store::{
    CarriedOver, CarryOver, Departure, Error, KeepHouse, LetGo, Table, WindowMap, WindowState,
};

use super::database::{State, Tables};
use super::link::broken;
use super::replica::LANES;
use super::storage::{Connection, POSTED_WITHIN};

/// How many hours the windows reach ahead: the world is shorter.
const AHEAD: i32 = 6;
/// How many executions are copied at a time: few, so that much can happen meanwhile.
const PAGE: usize = 2;
/// How long after a window's time it is marked at the earliest, in life an hour: whoever may still put something into
/// it has begun to do so by then.
const SLACK: Duration = POSTED_WITHIN.saturating_add(Duration::from_secs(1));

/// A window, and who marked it.
#[derive(Clone, Debug)]
struct Window {
    to: Hour,
    state: WindowState,
    marked: u64,
}

/// The windows that there are, what was let go of, and which rows are kept apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows {
    all: BTreeMap<(Table, Hour), Window>,
    let_go: BTreeSet<(Table, Hour, LaneId)>,
    pub(super) kept_executions: BTreeSet<(LaneId, u64)>,
    pub(super) kept_outcomes: BTreeSet<(LaneId, u64, u64)>,
    pub(super) kept_checkpoints: BTreeSet<(LaneId, u64, CheckpointMark)>,
}

impl Windows {
    /// An hour wide each, from that of a time on.
    pub(super) fn from(begin: Micros) -> Self {
        let hour = begin.hour().0;
        let hours = (hour..hour + AHEAD).map(Hour);
        let window = |hour: Hour| Window {
            to: Hour(hour.0 + 1),
            state: WindowState::Open,
            marked: 0,
        };
        let all = Table::ALL.into_iter().flat_map(|table| {
            let hours = hours.clone();
            hours.map(move |hour| ((table, hour), window(hour)))
        });
        Self {
            all: all.collect(),
            ..Self::default()
        }
    }

    pub(super) fn map(&self) -> WindowMap {
        let windows = self.all.iter();
        let windows = windows.map(|((table, from), window)| {
            let (from, to) = (*from, window.to);
            (*table, HourRange { from, to }, window.state)
        });
        windows.collect()
    }

    /// Whether a row of an hour has a place.
    pub(super) fn has(&self, table: Table, hour: Hour) -> bool {
        self.all.contains_key(&(table, hour))
    }

    /// Whether all windows whose time was over at `now` are gone.
    pub(super) fn are_turned(&self, now: Micros) -> bool {
        let first = self
            .all
            .keys()
            .filter(|(table, _)| *table != Table::Idempotency);
        first.map(|(_, from)| *from).min() >= Some(now.hour())
    }
}

impl State {
    /// A step of the leader's.
    pub(super) fn turn_windows(
        &mut self,
        ripe: &[(Table, Hour)],
        (xid, now): (u64, Micros),
    ) -> u64 {
        let oldest = self.open.first().copied().unwrap_or(xid);
        let windows = &mut self.tables.windows;
        let mut changed = 0;
        let mut gone = Vec::new();
        for ((table, from), window) in &mut windows.all {
            let told = windows
                .let_go
                .range((*table, *from, LaneId(0))..=(*table, *from, LaneId(u16::MAX)));
            let told = told.count();
            match window.state {
                WindowState::Open
                    if ripe.contains(&(*table, *from)) && now >= window.to.start().plus(SLACK) =>
                {
                    window.state = WindowState::Closing;
                    window.marked = xid;
                }
                WindowState::Closing if window.marked < oldest => {
                    window.state = WindowState::Sealed;
                }
                WindowState::Sealed
                    if *table == Table::Idempotency || told == usize::from(LANES) =>
                {
                    gone.push((
                        *table,
                        HourRange {
                            from: *from,
                            to: window.to,
                        },
                    ));
                }
                _ => continue,
            }
            changed += 1;
        }
        for (table, range) in gone {
            self.tables.remove_window(table, range);
        }
        changed
    }
}

impl Tables {
    fn carry_over(&mut self, departure: &Departure, seqs: &[u64]) {
        let lane = departure.lane;
        for seq in seqs {
            let home = self.executions.get(&(lane, *seq)).map(|(home, _)| *home);
            if home.is_some_and(|home| departure.window.contains(home)) {
                self.windows.kept_executions.insert((lane, *seq));
                let attempts = (lane, *seq, 0)..=(lane, *seq, u64::MAX);
                let attempts = self.outcomes.range(attempts).map(|(place, _)| *place);
                self.windows.kept_outcomes.extend(attempts);
                let saved = self.last_saved(lane, *seq).map(|mark| (lane, *seq, mark));
                self.windows.kept_checkpoints.extend(saved);
            }
        }
    }

    /// Notes what is let go of, as far as it rests on what is there.
    fn tell(&mut self, facts: &[LetGo]) -> Vec<LetGo> {
        let is_true = |fact: &&LetGo| {
            let window = self.windows.all.get(&(fact.table, fact.window.from));
            let sealed = window.is_some_and(|window| window.state == WindowState::Sealed);
            let row = self.chain.get(&(fact.lane, fact.row.n));
            let snapshot = self.snapshots.get(&fact.lane).map(|(n, _)| *n);
            let end = u64::try_from(fact.window.to.start().0).ok();
            let readable = fact.table != Table::Chain || snapshot >= end;
            sealed && row.is_some_and(|row| row.link == fact.row) && readable
        };
        let told: Vec<LetGo> = facts.iter().filter(is_true).copied().collect();
        let places = told.iter().map(|f| (f.table, f.window.from, f.lane));
        self.windows.let_go.extend(places);
        told
    }

    /// What is in a window goes with it. Nothing may be open that isn't kept.
    fn remove_window(&mut self, table: Table, range: HourRange) {
        self.windows.all.remove(&(table, range.from));
        match table {
            Table::Chain => self.remove_rows(range),
            Table::Execution => self.remove_executions(range),
            Table::Outcome => {
                let kept = self.windows.kept_outcomes.clone();
                let gone = self.outcomes.extract_if(.., |place, outcome| {
                    range.contains(outcome.home) && !kept.contains(place)
                });
                self.gone.outcomes.extend(gone);
            }
            Table::Checkpoint => {
                let kept = &self.windows.kept_checkpoints;
                self.checkpoints
                    .retain(|place, saved| !range.contains(saved.home) || kept.contains(place));
            }
            Table::Due => self
                .due
                .retain(|(_, mark), _| !range.contains(mark.due.hour())),
            Table::Inbox => self
                .inbox
                .retain(|posted| !range.contains(posted.at.hour())),
            Table::Idempotency => {}
        }
    }

    fn remove_rows(&mut self, range: HourRange) {
        let of_window = |n: u64| i64::try_from(n).is_ok_and(|n| range.contains(Micros(n).hour()));
        for (lane, memory) in &self.replayed {
            assert!(
                !of_window(memory.link().n),
                "the last row of lane {lane} goes with its window"
            );
        }
        let gone = self.chain.extract_if(.., |(_, n), _| of_window(*n));
        self.gone.chain.extend(gone);
        for lane in self.replayed.keys() {
            assert!(
                self.replay(*lane).is_some(),
                "lane {lane} can't be read any more"
            );
        }
    }

    fn remove_executions(&mut self, range: HourRange) {
        let kept = self.windows.kept_executions.clone();
        let gone = self.executions.extract_if(.., |place, (home, _)| {
            range.contains(*home) && !kept.contains(place)
        });
        let gone: Vec<_> = gone.collect();
        for (place, row) in gone {
            let over = super::truth::is_over(self, place);
            assert!(over, "execution {place:?} goes with its window and is open");
            self.gone.executions.insert(place, row);
        }
    }
}

#[async_trait]
impl CarryOver for Connection {
    async fn carry_over(
        &self,
        _: &WindowMap,
        departure: Departure,
        _: usize,
    ) -> Result<CarriedOver, Error> {
        let far = |state: &mut State| {
            let due = state.tables.due.iter();
            let far = due.filter(|((lane, mark), entry)| {
                let beyond = *mark > departure.due_read;
                *lane == departure.lane && beyond && departure.window.contains(entry.home)
            });
            let far: Vec<u64> = far.map(|((_, mark), _)| mark.seq).collect();
            (far, state.restored)
        };
        let (far, session) = self.read(far).await?;
        let mut needed = departure.open.clone();
        needed.extend(far);
        let lane = departure.lane;
        self.model
            .history
            .note(|| format!("lane {lane}: carries {needed:?} over"));
        for page in needed.chunks(PAGE) {
            self.on(session, |state| state.tables.carry_over(&departure, page))
                .await?;
        }
        let words = departure.words();
        let told = self.on(session, |state| state.tables.tell(&words)).await?;
        match told.len() == words.len() {
            true => Ok(CarriedOver::All(needed.len())),
            false => Ok(CarriedOver::Unasked),
        }
    }

    async fn note_let_go(&self, facts: &[LetGo]) -> Result<Vec<LetGo>, Error> {
        self.model.history.note(|| format!("let go: {facts:?}"));
        self.change(|state, _| state.tables.tell(facts)).await
    }

    async fn noted_let_go(&self, lanes: &[LaneId]) -> Result<Vec<(LaneId, Table, Hour)>, Error> {
        let of_lanes = |state: &mut State| {
            let noted = state.tables.windows.let_go.iter();
            let noted = noted.filter(|(_, _, lane)| lanes.contains(lane));
            noted
                .map(|(table, from, lane)| (*lane, *table, *from))
                .collect()
        };
        self.read(of_lanes).await
    }
}

impl Connection {
    /// A change over a connection that doesn't outlive the database.
    async fn on<T>(&self, session: u64, change: impl FnOnce(&mut State) -> T) -> Result<T, Error> {
        let change = |state: &mut State, _| (state.restored == session).then(|| change(state));
        self.change(change).await?.ok_or_else(broken)
    }
}

#[async_trait]
impl KeepHouse for Connection {
    async fn remove_windows(&mut self, _: Duration) -> Result<usize, Error> {
        Ok(0)
    }

    async fn freeze_windows(&mut self, _: Micros) -> Result<usize, Error> {
        Ok(0)
    }
}
