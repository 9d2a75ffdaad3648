//! The way between a scheduler and its database.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store::Error;
use tokio::time::Instant;

/// What chance does to a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Luck {
    /// It is run and answered.
    Good,
    /// It never arrives.
    Lost,
    /// It is run, and the answer never arrives.
    Unheard,
    /// It is run, kept open for so long, and then committed or not; the answer never arrives.
    Hangs(Duration, bool),
}

/// One scheduler's way to the database: how long things take, and what gets lost.
pub(super) struct Link {
    state: Mutex<State>,
}

struct State {
    chance: StdRng,
    /// Of a thousand statements that change something, how many have bad luck.
    trouble: u32,
    /// The scheduler is stopped until then: it neither sends nor hears.
    stopped_until: Instant,
    /// Nothing gets through until then.
    cut_until: Instant,
    dead: bool,
}

impl Link {
    pub(super) fn new(seed: u64, trouble: u32) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            state: Mutex::new(State {
                chance: StdRng::seed_from_u64(seed),
                trouble,
                stopped_until: now,
                cut_until: now,
                dead: false,
            }),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stop(&self, duration: Duration) {
        self.state().stopped_until = Instant::now() + duration;
    }

    pub(super) fn cut(&self, duration: Duration) {
        self.state().cut_until = Instant::now() + duration;
    }

    pub(super) fn kill(&self) {
        self.state().dead = true;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub(super) fn be_calm(&self) {
        self.state().trouble = 0;
    }

    /// What will become of the next statement that changes something.
    pub(super) fn luck(&self) -> Luck {
        let mut state = self.state();
        if state.chance.random_range(0..1_000) >= state.trouble {
            return Luck::Good;
        }
        match state.chance.random_range(0..4) {
            0 => Luck::Lost,
            1 => Luck::Unheard,
            _ => {
                let open = Duration::from_millis(state.chance.random_range(10..12_000));
                Luck::Hangs(open, state.chance.random())
            }
        }
    }

    pub(super) fn delay(&self) -> Duration {
        Duration::from_micros(self.state().chance.random_range(100..4_000))
    }

    /// Waits while the scheduler is stopped; whether it lives.
    pub(super) async fn carries(&self) -> bool {
        loop {
            let (stopped, dead) = {
                let state = self.state();
                (state.stopped_until, state.dead)
            };
            if dead {
                return false;
            }
            if Instant::now() >= stopped {
                return true;
            }
            tokio::time::sleep_until(stopped).await;
        }
    }

    /// One way between scheduler and database.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn cross(&self) -> Result<(), Error> {
        tokio::time::sleep(self.delay()).await;
        loop {
            let (stopped, cut, dead) = {
                let state = self.state();
                (state.stopped_until, state.cut_until, state.dead)
            };
            if dead {
                return Err(broken());
            }
            let now = Instant::now();
            if now < stopped {
                tokio::time::sleep_until(stopped).await;
            } else if now < cut {
                tokio::time::sleep_until(cut).await;
                return Err(broken());
            } else {
                return Ok(());
            }
        }
    }
}

/// A connection broke: whether anything was committed is unknown.
pub(super) fn broken() -> Error {
    Error::Silent {
        limit: Duration::ZERO,
    }
}
