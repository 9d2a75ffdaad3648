//! What a group does so that windows can go: once nobody else writes to one any more, each lane turns away
//! from it, copies what it still needs of it to where it outlives the window, and says that it lets go.

use std::sync::Arc;
use std::time::Duration;

use domain::lane::{Class, Lane, Span};
use domain::{Hour, HourRange, LaneId};
use rustc_hash::FxHashMap;
use store::{Batch, CarriedOver, Departure, LetGo, Table, WindowMap};
use tokio::time::Instant;

use super::actor::Group;
use super::doubt::Fate;
use super::input::Input;
use super::side::Side;
use crate::shared::Shared;

/// With more than this to be carried over, a window stays.
const MOST: usize = 1_000_000;
/// How long is waited after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked up whether what was said of windows is still noted.
const TOLD_LOOK: Duration = Duration::from_secs(20);
/// How long is waited where too much is open.
const LONG_PAUSE: Duration = Duration::from_secs(600);

/// What the next row of a lane says of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Farewell {
    /// What is written of its homes is kept apart from here on.
    Close(HourRange),
    /// Nothing in it is needed any more.
    LetGo(HourRange),
}

/// What became of a carry-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carried {
    /// Everything that is needed is copied.
    All,
    /// There is more than may be.
    TooMuch,
    /// It must be tried again.
    Failed,
}

/// How far a lane has come with windows on their way out.
#[derive(Default)]
pub(super) struct Turning {
    /// What it has said that it needs no more, and when.
    told: FxHashMap<(Table, Hour), Instant>,
    /// When the read of its inbox began whose finds, all there were, are part of the batch that is planned.
    pub(super) inbox_reading: Option<Instant>,
    /// When the last such read began whose batch was committed.
    inbox_through: Option<Instant>,
    /// A carry-over is under way, or is not to be tried before then.
    carrying: Option<Instant>,
    /// What its next row is to say.
    pub(super) farewell: Option<Farewell>,
}

/// What a lane needs before it can let go of a window.
enum Need {
    /// Nothing.
    Nothing,
    /// Something that comes by itself.
    Time,
    /// That its row says so.
    Word(Farewell),
    /// That what is open in it is carried over.
    Copies,
    /// That its chain goes on in another window.
    Move,
    /// A snapshot.
    Snapshot,
}

impl Turning {
    /// A batch was committed.
    pub(super) fn note_committed(&mut self) {
        self.inbox_through = self.inbox_reading.take().or(self.inbox_through);
    }

    /// A carry-over has ended.
    pub(super) fn note_carried(&mut self, window: HourRange, carried: Carried) {
        let pause = match carried {
            Carried::All => {
                let told = Departure::TABLES.map(|table| ((table, window.from), Instant::now()));
                self.told.extend(told);
                self.farewell = Some(Farewell::LetGo(window));
                None
            }
            Carried::TooMuch => Some(LONG_PAUSE),
            Carried::Failed => Some(PAUSE),
        };
        self.carrying = pause.map(|pause| Instant::now() + pause);
    }

    fn may_carry(&self) -> bool {
        self.carrying.is_none_or(|until| until <= Instant::now())
    }

    fn need(&self, lane: &Lane, side: &Side, what: (Table, HourRange), since: Instant) -> Need {
        let (table, window) = what;
        let end = window.to.start();
        let read_through = self.inbox_through.is_some_and(|begin| begin > since);
        let ready = match table {
            Table::Execution if lane.is_turned_from(window) => return Need::Copies,
            Table::Execution if read_through => return Need::Word(Farewell::Close(window)),
            Table::Due => lane.due_read().due >= end,
            Table::Inbox => read_through,
            Table::Chain if i64::try_from(lane.link().n).is_ok_and(|n| n < end.0) => {
                return Need::Move;
            }
            Table::Chain if side.snapshots.is_beyond(end) => true,
            Table::Chain => return Need::Snapshot,
            // Outcomes and checkpoints are let go of with their executions.
            Table::Execution | Table::Outcome | Table::Checkpoint | Table::Idempotency => false,
        };
        if ready { Need::Nothing } else { Need::Time }
    }
}

impl Group {
    /// Looks at the windows that wait for the lanes, and does what each lane can do next.
    pub(super) fn look_at_windows(&mut self) {
        let windows = Arc::clone(&self.shared.windows.borrow());
        let sealed: Vec<(Table, HourRange)> = windows.sealed().collect();
        self.sealed.retain(|what, _| sealed.contains(what));
        let mut facts = Vec::new();
        for what in sealed {
            let since = *self.sealed.entry(what).or_insert_with(Instant::now);
            for lane in self.lanes.keys().copied().collect::<Vec<_>>() {
                facts.extend(self.turn(&windows, lane, (what, since)));
            }
        }
        if !facts.is_empty() && !self.telling {
            self.telling = true;
            self.tell_let_go(facts);
        }
        self.look_up_what_was_told(&windows.sealed().collect::<Vec<_>>());
    }

    /// Does what a lane can do next about a window. What it gives is to be told: the lane needs it no more.
    fn turn(
        &mut self,
        windows: &Arc<WindowMap>,
        id: LaneId,
        (what, since): ((Table, HourRange), Instant),
    ) -> Option<LetGo> {
        let (Some(lane), Some(side)) = (self.lanes.get(&id), self.sides.get_mut(&id)) else {
            return None;
        };
        let (table, window) = what;
        if side.turning.told.contains_key(&(table, window.from)) {
            return None;
        }
        let row = lane.link();
        match side.turning.need(lane, side, what, since) {
            Need::Nothing => {
                return Some(LetGo {
                    lane: id,
                    table,
                    window,
                    row,
                });
            }
            Need::Time => {}
            Need::Word(farewell) => side.turning.farewell = Some(farewell),
            Need::Move => drop(self.moving.insert(id)),
            Need::Snapshot => side.snapshots.want(),
            Need::Copies if side.turning.may_carry() => {
                side.turning.carrying = Some(Instant::now() + Duration::from_secs(3_600));
                let departure = Departure {
                    lane: id,
                    window,
                    row,
                    due_read: lane.due_read(),
                    open: lane.open_within(window),
                };
                let carry = carry_over(
                    (Arc::clone(&self.shared), Arc::clone(windows)),
                    departure,
                    lane.stored_within(window),
                );
                let own = self.own.clone();
                tokio::spawn(async move {
                    let done = carry.await;
                    let _ = own.send(Input::Carried(id, window, done)).await;
                });
            }
            Need::Copies => {}
        }
        None
    }

    fn tell_let_go(&self, facts: Vec<LetGo>) {
        let (shared, own) = (Arc::clone(&self.shared), self.own.clone());
        tokio::spawn(async move {
            let told = shared.database.note_let_go(&facts).await;
            let told = told.unwrap_or_else(|error| {
                tracing::warn!(%error, "can't say that windows are let go of; trying again");
                Vec::new()
            });
            let _ = own.send(Input::LetGo(told)).await;
        });
    }

    /// Lanes have said that they need some windows no more.
    pub(super) fn note_let_go(&mut self, facts: &[LetGo]) {
        self.telling = false;
        for fact in facts {
            if let Some(side) = self.sides.get_mut(&fact.lane) {
                let what = (fact.table, fact.window.from);
                side.turning.told.insert(what, Instant::now());
            }
        }
    }

    /// What was said of windows that don't go may be gone with the last changes of the database, though nothing else
    /// of these lanes is: it is looked up now and then.
    fn look_up_what_was_told(&mut self, sealed: &[(Table, HourRange)]) {
        let told = |side: &Side| {
            let mut windows = sealed.iter().map(|(table, window)| (*table, window.from));
            windows.any(|what| side.turning.told.contains_key(&what))
        };
        if self.told_looked_up.elapsed() < TOLD_LOOK || !self.sides.values().any(told) {
            return;
        }
        let since = Instant::now();
        self.told_looked_up = since;
        let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
        let (shared, own) = (Arc::clone(&self.shared), self.own.clone());
        tokio::spawn(async move {
            if let Ok(noted) = shared.database.noted_let_go(&lanes).await {
                let _ = own.send(Input::NotedLetGo(since, noted)).await;
            }
        });
    }

    /// What the database had noted at a time of what was said before it; the rest is to be said again.
    pub(super) fn take_noted(&mut self, since: Instant, noted: &[(LaneId, Table, Hour)]) {
        for (lane, side) in &mut self.sides {
            side.turning.told.retain(|(table, from), at| {
                *at >= since || noted.contains(&(*lane, *table, *from))
            });
        }
    }

    /// Takes the chains on whose last rows lie in a window that is to go. Says whether it may go on planning.
    pub(super) async fn move_chains_on(&mut self, windows: &WindowMap, at: domain::Micros) -> bool {
        let moving = std::mem::take(&mut self.moving);
        let id = rand::Rng::random(&mut self.chance);
        let lanes = moving.iter().filter_map(|lane| self.lanes.get(lane));
        let batch = Batch {
            rows: lanes.flat_map(|lane| lane.move_on(at, id)).collect(),
            ..Batch::default()
        };
        if batch.rows.is_empty() {
            return true;
        }
        match self.commit(windows, &batch).await {
            Fate::Committed => {
                self.apply_rows(&batch);
                true
            }
            Fate::Never | Fate::KeyTaken | Fate::Blocked => true,
            Fate::Deposed | Fate::Unknown => {
                self.drop_lanes(moving.into_iter().collect());
                false
            }
        }
    }
}

/// Copies what a lane still needs of a window.
async fn carry_over(
    (shared, windows): (Arc<Shared>, Arc<WindowMap>),
    mut departure: Departure,
    stored: Vec<(Class, Span)>,
) -> Carried {
    let (lane, window) = (departure.lane, departure.window);
    let HourRange { from, to } = window;
    // One more than may be, so that what was cut off is seen to be too much.
    let open = shared.stored_within(&windows, lane, (window, &stored), MOST + 1);
    let carried = match open.await {
        Ok(open) => {
            departure.open.extend(open);
            shared.database.carry_over(&windows, departure, MOST).await
        }
        Err(error) => Err(error),
    };
    match carried {
        Ok(CarriedOver::All(count)) => {
            tracing::info!(
                event = "window_carried_over",
                partition = lane.0,
                count,
                from_hour = from.0,
                to_hour = to.0,
                "what is open in a window was carried over"
            );
            Carried::All
        }
        Ok(CarriedOver::TooMuch) => {
            shared.metrics.windows_held_back.inc();
            tracing::warn!(
                event = "window_held_back",
                partition = lane.0,
                from_hour = from.0,
                to_hour = to.0,
                "too much is open in a window for it to go"
            );
            Carried::TooMuch
        }
        Ok(CarriedOver::Unasked) => Carried::Failed,
        Err(error) => {
            tracing::warn!(partition = lane.0, %error, "a window can't be carried over yet");
            Carried::Failed
        }
    }
}
