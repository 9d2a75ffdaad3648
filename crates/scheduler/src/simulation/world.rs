//! A world: replicas, workers, clients, and what befalls them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::{cancel_some, hand_in, revise_some};
use super::database::Model;
use super::history::History;
use super::panics;
use super::replica::Replica;
use super::truth::{Truth, reopened};
use super::work::{Fault, Worker};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(12);
/// How long they do where windows turn over meanwhile.
const LONG_TROUBLE: Duration = Duration::from_secs(26);
/// How long before an hour is full such a world begins.
const BEFORE_THE_HOUR: Duration = Duration::from_secs(4);
/// How long all may take to be done once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// The schedulers' names.
const REPLICAS: [&str; 3] = ["s1", "s2", "s3"];

#[derive(Clone)]
pub(super) struct World {
    pub(super) history: History,
    pub(super) truth: Truth,
    pub(super) model: Model,
    /// Whether the database may lose its last changes.
    lossy: bool,
    replicas: Arc<Mutex<Vec<Arc<Replica>>>>,
    /// Before this no worker begins.
    opening: Instant,
}

/// Plays the world of a seed. Gives how many checkpoints were acknowledged, and how many attempts went on from one.
///
/// # Errors
/// What went wrong in it.
pub(super) fn play(seed: u64, loud: bool) -> Result<(usize, usize), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    panics::watch();
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(live(seed, loud))
    }));
    runtime.shutdown_background();
    match panics::first() {
        Some(panic) => Err(panic),
        None => played.unwrap_or_else(|_| Err("a panic".to_owned())),
    }
}

async fn live(seed: u64, loud: bool) -> Result<(usize, usize), String> {
    let mut chance = StdRng::seed_from_u64(seed);
    let history = History::new(loud);
    let (before, over) = match chance.random_range(0..3) {
        0 => (BEFORE_THE_HOUR, LONG_TROUBLE),
        _ => (Duration::ZERO, TROUBLE),
    };
    // In a quarter of the worlds memory is full with next to nothing. In half of those the workers come late, so that
    // what waits outlives its window if that goes.
    let waiting_share = match seed % 4 {
        0 => usize::try_from(seed / 8 % 4).unwrap_or(0),
        _ => usize::MAX,
    };
    let late = match seed % 8 {
        0 => over.mul_f64(0.8),
        _ => Duration::ZERO,
    };
    let world = World {
        model: Model::new(history.clone(), before, waiting_share),
        truth: Truth::default(),
        lossy: chance.random_ratio(1, 4),
        replicas: Arc::default(),
        opening: Instant::now() + late,
        history,
    };
    let trouble = [0, 10, 40][chance.random_range(0..3)];
    for name in REPLICAS.iter().take(chance.random_range(2..=3)) {
        world.start(name, chance.random(), trouble);
    }
    let mut workers = Vec::new();
    for name in ["w1", "w2"] {
        workers.push(world.hire(name, &mut chance));
    }
    let count = chance.random_range(20..80);
    let [one, other, third] = [(); 3].map(|()| StdRng::seed_from_u64(chance.random()));
    tokio::spawn(hand_in(world.clone(), one, count, over));
    tokio::spawn(cancel_some(world.clone(), other, 8, over));
    tokio::spawn(revise_some(world.clone(), third, 8, over));
    let end = Instant::now() + over;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(chance.random_range(200..3_000))).await;
        world.befall(&mut chance, &mut workers, trouble);
    }
    world
        .replicas()
        .iter()
        .for_each(|replica| replica.link.be_calm());
    world.settle().await?;
    Ok(world.truth.checkpoints())
}

impl World {
    fn start(&self, name: &str, seed: u64, trouble: u32) {
        self.history.note(|| format!("world: {name} starts"));
        let replica = Arc::new(Replica::start(&self.model, name, seed, trouble));
        self.lock().push(replica);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Replica>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn replicas(&self) -> Vec<Arc<Replica>> {
        self.lock().clone()
    }

    /// Who some replica thinks owns a lane; any replica if none knows.
    pub(super) fn owner_of(&self, lane: u32) -> Option<Arc<Replica>> {
        let replicas = self.replicas();
        let owner = replicas.iter().find_map(|replica| {
            let view = Arc::clone(&replica.shared.view.borrow());
            let owner = *view.lane_owners.get(lane as usize)?;
            let scheduler = view.schedulers.get(owner.checked_sub(1)? as usize)?;
            let id = scheduler.scheduler_id.clone();
            replicas.iter().find(|replica| replica.name == id).cloned()
        });
        owner.or_else(|| replicas.first().cloned())
    }

    fn hire(&self, name: &str, chance: &mut StdRng) -> mpsc::UnboundedSender<Fault> {
        let (faults, receiver) = mpsc::unbounded_channel();
        let own = StdRng::seed_from_u64(chance.random());
        let worker = Worker::new(self.clone(), name, chance.random(), own);
        let opening = self.opening;
        tokio::spawn(async move {
            if Instant::now() < opening {
                tokio::time::sleep_until(opening).await;
            }
            worker.run(receiver).await;
        });
        faults
    }

    /// Something happens to somebody.
    fn befall(
        &self,
        chance: &mut StdRng,
        workers: &mut [mpsc::UnboundedSender<Fault>],
        trouble: u32,
    ) {
        let duration = Duration::from_millis(chance.random_range(100..9_000));
        let replicas = self.replicas();
        let replica = &replicas[chance.random_range(0..replicas.len())];
        let what = chance.random_range(0..11);
        self.history
            .note(|| format!("world: {what} befalls {} or a worker", replica.name));
        match what {
            0 => {
                replica.kill();
                let mut replicas = self.lock();
                replicas.retain(|other| other.name != replica.name);
                drop(replicas);
                self.start(&replica.name, chance.random(), trouble);
            }
            1 => replica.link.stop(duration),
            2 => replica.link.cut(duration),
            3 | 4 => {
                let place = chance.random_range(0..workers.len());
                let name = ["w1", "w2"][place];
                let how = if what == 3 { Fault::Kill } else { Fault::Leave };
                let _ = workers[place].send(how);
                workers[place] = self.hire(name, chance);
            }
            5 => {
                let place = chance.random_range(0..workers.len());
                let _ = workers[place].send(Fault::Stop(duration));
            }
            8 | 9 => {
                let place = chance.random_range(0..workers.len());
                let scheduler = REPLICAS[chance.random_range(0..replicas.len())];
                let _ = workers[place].send(Fault::Part(scheduler, duration));
            }
            6 if self.lossy => self.model.copy(),
            7 if self.lossy => self.lose_the_tail(chance.random()),
            _ => {}
        }
    }

    /// The database is replaced by an older copy of itself.
    fn lose_the_tail(&self, notices: bool) {
        let Some(before) = self.model.restore(notices) else {
            return;
        };
        self.truth.forgive(&before, &self.model.state().tables);
        for replica in self.replicas() {
            replica.link.cut(Duration::from_millis(300));
        }
    }

    /// Nothing goes wrong any more: everything that was accepted comes to its end.
    async fn settle(&self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let state = self.model.state();
            let unfinished = self.truth.unfinished(&state.tables);
            let lanes = state.tables.replayed.values();
            let open: u64 = lanes
                .map(|l| l.waiting().len() + l.running().len() as u64 + l.timers().len() as u64)
                .sum();
            let submitted = state.tables.replayed.values();
            let submitted: u64 = submitted.map(|lane| lane.totals().submitted).sum();
            let executions = state.tables.executions.len() + state.tables.gone.executions.len();
            let lanes = state.tables.replayed.keys();
            let reopened: usize = lanes.map(|lane| reopened(&state.tables, *lane)).sum();
            let posted = ((executions + reopened) as u64).abs_diff(submitted);
            let turned = state.tables.windows.are_turned(self.model.now());
            if unfinished.is_empty() && open == 0 && posted == 0 && turned {
                return self.truth.check(&state.tables);
            }
            if Instant::now() > until {
                for replica in self.replicas() {
                    let sessions = replica.shared.sessions.all();
                    self.history
                        .note(|| format!("{}: {sessions:?}", replica.name));
                }
                self.truth.check(&state.tables)?;
                return Err(format!(
                    "not done in time: {unfinished:?}; {open} are in lanes, {posted} in inboxes; \
                     windows turned: {turned}"
                ));
            }
        }
    }
}
