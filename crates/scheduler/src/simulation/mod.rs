//! Schedulers in a world of their own: the real planning, applying, ownership and stream code, on one thread
//! and in virtual time, between a model of the database and model workers. All that happens by chance is drawn
//! from a seed, so a seed is a history: `SEED=n` plays one again and prints it.
//!
//! What the model of the database may do is what PostgreSQL may do to a client: answer late, refuse, lose an
//! answer, leave a transaction open for seconds and then commit it or not.

mod client;
mod database;
mod history;
mod link;
mod lists;
mod panics;
mod replica;
mod saving;
mod storage;
mod transaction;
mod truth;
mod windows;
mod work;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::lane::Lane;

pub(crate) use history::History;

/// Sees a lane after a row was applied to it.
pub(crate) type Witness = Arc<dyn Fn(&Lane) + Send + Sync>;

/// Seeds that a test run plays; more with `SEEDS=n`, from `SEED_FROM=m` on, on as many cores as there are or
/// `THREADS`.
const SEEDS: u64 = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_is_lost_or_done_twice_whatever_happens() {
    if let Some(seed) = number("SEED") {
        if let Err(failure) = world::play(seed, true) {
            panic!("seed {seed}: {failure}");
        }
        return;
    }
    let (from, count) = (
        number("SEED_FROM").unwrap_or(0),
        number("SEEDS").unwrap_or(SEEDS),
    );
    let cores = || std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let threads = number("THREADS").unwrap_or_else(cores).max(1);
    let begin = std::time::Instant::now();
    let (saved, resumed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures: Vec<String> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let (saved, resumed) = (&saved, &resumed);
                let seeds = (from..from + count).filter(move |seed| seed % threads == part);
                scope.spawn(move || {
                    let failed = seeds.filter_map(|seed| match world::play(seed, false) {
                        Ok(checkpoints) => {
                            saved.fetch_add(checkpoints.0, Ordering::Relaxed);
                            resumed.fetch_add(checkpoints.1, Ordering::Relaxed);
                            None
                        }
                        Err(failure) => Some(format!("seed {seed}: {failure}")),
                    });
                    failed.take(3).collect::<Vec<_>>()
                })
            })
            .collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().expect("a world ends"))
            .collect()
    });
    let (saved, resumed) = (saved.into_inner(), resumed.into_inner());
    println!(
        "{count} seeds in {:.1?}: {saved} checkpoints were acknowledged, {resumed} attempts went on from one",
        begin.elapsed()
    );
    assert!(
        failures.is_empty(),
        "{}\nplay one again with SEED=…",
        failures.join("\n")
    );
    assert!(
        count < 100 || (saved > 0 && resumed > 0),
        "nothing was saved"
    );
}
