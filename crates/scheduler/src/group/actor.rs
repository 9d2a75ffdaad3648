use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domain::lane::{Lane, Row};
use domain::{HourRange, LaneId};
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use store::{Table, WriteLanes};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::commit::Step;
use super::input::{HeldTask, Input, Watched};
use super::intake::Pending;
use super::keys::RecentKeys;
use super::pressure::Pressure;
use super::side::Side;
use super::stored::Room;
use crate::dispatch::{Bell, Servings};
use crate::line_metrics::LinesMetrics;
use crate::log_budget::LogBudget;
use crate::shared::Shared;
use crate::turns::TurnOrder;
use service::Recurring;

/// Inputs beyond this wait at the sender.
const QUEUE: usize = 1_024;
/// Executions and results that one batch takes; more wait for the next.
pub(super) const BATCH: usize = 1_000;
/// How often a group looks for lost workers, and for lines whose heads it lacks, without being asked.
const LOOK: Duration = Duration::from_millis(250);

/// Where inputs for a group go.
#[derive(Clone)]
pub(crate) struct GroupHandle(mpsc::Sender<Input>);

impl GroupHandle {
    /// Hands an input over; waits while the group is behind. The group lives as long as the process:
    /// while it ends, what still comes is let go, and its sender sees its reply's channel close.
    pub(crate) async fn send(&self, input: Input) {
        let _ = self.0.send(input).await;
    }
}

/// A lane group at work.
pub(crate) struct Group {
    pub(super) place: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) bell: Arc<Bell>,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) own: mpsc::Sender<Input>,
    /// Gets the lanes that had to be dropped: they must be taken over again.
    pub(super) dropped: mpsc::UnboundedSender<Vec<LaneId>>,
    pub(super) writer: Box<dyn WriteLanes>,
    pub(super) lanes: BTreeMap<LaneId, Lane>,
    pub(super) sides: FxHashMap<LaneId, Side>,
    pub(super) room: Room,
    /// There is no window to write to.
    pub(super) windowless: Recurring,
    /// Draws back-offs and batch ids.
    pub(super) chance: StdRng,
    pub(super) recent_keys: RecentKeys,
    /// When the inboxes were looked into last.
    pub(super) inbox_looked: Instant,
    /// An empty row that was committed behind the batch that is about to be applied.
    pub(super) after: Option<Row>,
    /// The last batch couldn't be planned or committed: a time that has come can wait for the next look.
    pub(super) held_up: bool,
    /// Claims whose commit's answer was lost.
    pub(super) unsent: BTreeSet<HeldTask>,
    pub(super) turns: TurnOrder,
    pub(super) pressure: Pressure,
    pub(super) servings: Servings,
    pub(super) watchers: FxHashMap<domain::ExecutionId, Vec<mpsc::UnboundedSender<Watched>>>,
    /// The windows that wait for the lanes, and since when they are seen to.
    pub(super) sealed: BTreeMap<(Table, HourRange), Instant>,
    /// It is being said of some lanes that they need some windows no more.
    pub(super) telling: bool,
    /// When it was looked up last what was said of windows.
    pub(super) told_looked_up: Instant,
    /// Lanes whose chains are to go on in another window.
    pub(super) moving: BTreeSet<LaneId>,
    pub(super) lines: LinesMetrics,
    pub(super) log_budget: LogBudget,
}

impl Group {
    /// A group without lanes, and where its inputs go.
    pub(crate) fn new(
        place: usize,
        shared: Arc<Shared>,
        bell: Arc<Bell>,
        (dropped, chance): (mpsc::UnboundedSender<Vec<LaneId>>, StdRng),
    ) -> (Self, GroupHandle) {
        let (own, inputs) = mpsc::channel(QUEUE);
        let group = Self {
            place,
            writer: shared.database.writer(),
            room: Room::new(shared.waiting_share),
            windowless: Recurring::default(),
            lines: LinesMetrics::new(Arc::clone(&shared.metrics)),
            log_budget: LogBudget::new(Arc::clone(&shared.metrics)),
            shared,
            bell,
            inputs,
            own: own.clone(),
            dropped,
            lanes: BTreeMap::new(),
            sides: FxHashMap::default(),
            chance,
            recent_keys: RecentKeys::default(),
            inbox_looked: Instant::now(),
            after: None,
            held_up: false,
            unsent: BTreeSet::new(),
            turns: TurnOrder::default(),
            pressure: Pressure::new(),
            servings: Servings::default(),
            watchers: FxHashMap::default(),
            sealed: BTreeMap::new(),
            telling: false,
            told_looked_up: Instant::now(),
            moving: BTreeSet::new(),
        };
        (group, GroupHandle(own))
    }

    /// Works until the process ends.
    pub(crate) async fn run(mut self) {
        let mut busy = false;
        let mut looked = Instant::now();
        loop {
            let mut pending = Pending::default();
            if !busy {
                self.wait(&mut pending).await;
            }
            self.gather(&mut pending);
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look_for_losses(&mut pending);
                self.look_for_leavers();
                self.look_at_windows();
                self.write_snapshots();
            }
            let came = pending.len() > 0;
            let step = self.step(pending).await;
            busy = step == Step::More;
            if came || busy {
                self.pressure.touch();
            }
            self.look_at_lines();
            self.held_up = step == Step::HeldUp;
        }
    }

    /// Waits for an input, for room on a worker, or for a time that comes.
    async fn wait(&mut self, pending: &mut Pending) {
        let until = self.wake_at();
        tokio::select! {
            biased;
            input = self.inputs.recv() => {
                if let Some(input) = input {
                    self.take_in(input, pending);
                }
            }
            () = self.bell.rung(self.place) => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// Takes in what is there already, up to a full batch.
    fn gather(&mut self, pending: &mut Pending) {
        while pending.len() < BATCH {
            match self.inputs.try_recv() {
                Ok(input) => self.take_in(input, pending),
                Err(_) => break,
            }
        }
    }

    fn wake_at(&self) -> Instant {
        if self.held_up {
            return Instant::now() + LOOK;
        }
        let now = self.shared.clock.now();
        let timers = self
            .lanes
            .values()
            .filter_map(|lane| lane.timers().keys().next());
        let first = timers.map(|mark| mark.due.since(now)).min();
        let look = LOOK.min(self.inbox_pace());
        let wake = Instant::now() + first.map_or(look, |wait| wait.min(look));
        self.pressure.due().map_or(wake, |due| due.min(wake))
    }
}
