//! What is done to whom, and when: drawn from a seed, by counts, so that nothing is left to luck.

use std::time::Duration;

use cluster::Service;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::history::FaultKind;

/// How many of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// `kill -9` of each of the three services.
    pub kills: usize,
    /// Restarts of the database, each second one a crash.
    pub restarts: usize,
    /// Pauses of workers and of schedulers, so many of each; half as many of gateways.
    pub pauses: usize,
    /// SIGTERM of each of the three services.
    pub terminations: usize,
    /// Of each kind of bad trouble, on ways to schedulers and from them to the database.
    pub network: usize,
}

/// How many processes there are of each service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fleet {
    pub(crate) gateways: usize,
    pub(crate) schedulers: usize,
    pub(crate) workers: usize,
}

impl Fleet {
    fn of(self, service: Service) -> usize {
        match service {
            Service::ApiGateway => self.gateways,
            Service::Scheduler => self.schedulers,
            Service::Worker => self.workers,
        }
    }
}

/// One fault to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When, since the begin of the load.
    pub after: Duration,
    /// What.
    pub kind: FaultKind,
    /// To whom; see [`Fault::target`](crate::Fault::target).
    pub target: String,
    /// How long it lasts, or how long it takes until the target is started again.
    pub lasts: Duration,
}

/// Spreads faults over the load's time, of which the last part stays quiet.
pub(crate) fn plan(counts: Counts, fleet: Fleet, load: Duration, seed: u64) -> Vec<Planned> {
    const SERVICES: [Service; 3] = [Service::Worker, Service::Scheduler, Service::ApiGateway];
    let mut random = StdRng::seed_from_u64(seed);
    let mut wanted: Vec<(FaultKind, String)> = Vec::new();
    for service in SERVICES {
        let pauses = match service {
            Service::ApiGateway => counts.pauses / 2,
            Service::Scheduler | Service::Worker => counts.pauses,
        };
        for (kind, count) in [
            (FaultKind::Kill, counts.kills),
            (FaultKind::Pause, pauses),
            (FaultKind::Terminate, counts.terminations),
        ] {
            wanted.extend((0..count).map(|_| {
                let number = random.random_range(1..=fleet.of(service));
                (kind, format!("{service}-{number}"))
            }));
        }
    }
    for number in 0..counts.restarts {
        let kinds = [FaultKind::Restart, FaultKind::Crash];
        wanted.push((kinds[number % kinds.len()], "database".to_owned()));
    }
    for kind in [
        FaultKind::Delay,
        FaultKind::Stall,
        FaultKind::Blackhole,
        FaultKind::HalfOpen,
        FaultKind::Reset,
    ] {
        for turn in 0..counts.network {
            let scheduler = random.random_range(1..=fleet.schedulers);
            let way = match turn % 2 {
                0 => format!("to scheduler-{scheduler}"),
                _ => format!("scheduler-{scheduler} to database"),
            };
            wanted.push((kind, way));
        }
    }
    wanted.shuffle(&mut random);
    let share = load.mul_f64(0.85) / u32::try_from(wanted.len().max(1)).unwrap_or(u32::MAX);
    let planned = wanted.into_iter().zip(0..).map(|((kind, target), place)| {
        let after = share * place + share.mul_f64(random.random_range(0.1..0.9));
        let lasts = lasts(kind, &mut random);
        Planned {
            after,
            kind,
            target,
            lasts,
        }
    });
    planned.collect()
}

/// Shorter and longer than leases.
fn lasts(kind: FaultKind, random: &mut StdRng) -> Duration {
    let ms = match kind {
        FaultKind::Pause => 1_000..9_000,
        FaultKind::Kill | FaultKind::Terminate | FaultKind::Exit | FaultKind::Start => 100..1_500,
        FaultKind::Restart | FaultKind::Crash => 0..1_000,
        FaultKind::Delay | FaultKind::Stall => 1_000..7_000,
        FaultKind::Blackhole | FaultKind::HalfOpen => 500..7_000,
        FaultKind::Reset => 0..1,
    };
    Duration::from_millis(random.random_range(ms))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const COUNTS: Counts = Counts {
        kills: 5,
        restarts: 2,
        pauses: 4,
        terminations: 1,
        network: 2,
    };
    const FLEET: Fleet = Fleet {
        gateways: 2,
        schedulers: 3,
        workers: 4,
    };
    const LOAD: Duration = Duration::from_secs(240);

    #[test]
    fn a_plan_has_what_was_asked_for_within_the_load_and_the_same_for_a_seed() {
        let planned = plan(COUNTS, FLEET, LOAD, 7);
        let mut counts: HashMap<FaultKind, usize> = HashMap::new();
        for one in &planned {
            *counts.entry(one.kind).or_default() += 1;
            assert!(one.after < LOAD.mul_f64(0.85), "{one:?}");
        }
        let count = |kind| counts[&kind];
        assert_eq!(count(FaultKind::Kill), 15);
        assert_eq!(count(FaultKind::Pause), 10);
        assert_eq!(count(FaultKind::Terminate), 3);
        assert_eq!((count(FaultKind::Restart), count(FaultKind::Crash)), (1, 1));
        assert_eq!(count(FaultKind::Blackhole), 2);
        assert_eq!(planned, plan(COUNTS, FLEET, LOAD, 7));
        assert_ne!(planned, plan(COUNTS, FLEET, LOAD, 8));
    }
}
