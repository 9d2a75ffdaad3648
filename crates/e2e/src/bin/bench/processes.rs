//! Processor time and memory of everything that takes part, from `/proc`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cluster::{Cluster, Service};

/// Who takes part, in the order of the report's columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Gateway,
    Schedulers,
    Workers,
    Postgres,
    Bench,
}

impl Role {
    pub(crate) const ALL: [Self; 5] = [
        Self::Gateway,
        Self::Schedulers,
        Self::Workers,
        Self::Postgres,
        Self::Bench,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Schedulers => "schedulers",
            Self::Workers => "workers",
            Self::Postgres => "PostgreSQL",
            Self::Bench => "bench",
        }
    }

    fn of(service: Service) -> Self {
        match service {
            Service::ApiGateway => Self::Gateway,
            Service::Scheduler => Self::Schedulers,
            Service::Worker => Self::Workers,
        }
    }
}

/// What jobs cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Microseconds of processor time for each job, by role.
    pub(crate) each_us: [f64; Role::ALL.len()],
    /// How many processors those who take part kept busy.
    pub(crate) busy: f64,
    /// How many others kept busy meanwhile, who have nothing to do with it.
    pub(crate) others: f64,
}

/// Processor time used up to a moment.
pub(crate) struct Usage {
    at: Instant,
    time: [Duration; Role::ALL.len()],
    machine: Duration,
}

/// Memory, in MiB, by role: the sum over its processes, each at its highest.
pub(crate) type Memory = [f64; Role::ALL.len()];

/// Reads what the processes use. They must not be exchanged between two readings that are compared.
pub(crate) struct Meter {
    postmaster: u32,
    tick: Duration,
}

impl Meter {
    pub(crate) fn new(postmaster: u32) -> Self {
        let ticks = rustix::param::clock_ticks_per_second();
        Self {
            postmaster,
            tick: Duration::from_secs(1).div_f64(ticks as f64),
        }
    }

    pub(crate) fn usage(&self, cluster: &Cluster) -> Result<Usage> {
        let mut ticks = [0; Role::ALL.len()];
        for (role, process) in self.processes(cluster)? {
            // One that has just ended has handed its time to the server's first process.
            let Some(stat) = Stat::read(process) else {
                continue;
            };
            ticks[role as usize] += stat.own;
            if process == self.postmaster {
                ticks[role as usize] += stat.ended_children;
            }
        }
        Ok(Usage {
            at: Instant::now(),
            time: ticks.map(|count| self.tick * count),
            machine: self.tick * machine_ticks()?,
        })
    }

    /// What `jobs` jobs cost since `before`.
    pub(crate) fn cost(&self, cluster: &Cluster, before: &Usage, jobs: f64) -> Result<Cost> {
        let after = self.usage(cluster)?;
        let wall = after.at.duration_since(before.at).as_secs_f64();
        let mut seconds = [0.0; Role::ALL.len()];
        for (place, used) in seconds.iter_mut().enumerate() {
            *used = after.time[place]
                .saturating_sub(before.time[place])
                .as_secs_f64();
        }
        let ours: f64 = seconds.iter().sum();
        let all = after.machine.saturating_sub(before.machine).as_secs_f64();
        Ok(Cost {
            each_us: seconds.map(|used| used * 1e6 / jobs.max(1.0)),
            busy: ours / wall,
            others: (all - ours).max(0.0) / wall,
        })
    }

    /// Memory so far. PostgreSQL's shared memory is counted once.
    pub(crate) fn memory(&self, cluster: &Cluster) -> Result<Memory> {
        let mut memory = [0.0; Role::ALL.len()];
        let mut shared: f64 = 0.0;
        for (role, process) in self.processes(cluster)? {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let mib = |name: &str| field(&status, name) / 1024.0;
            if role == Role::Postgres {
                shared = shared.max(mib("RssShmem:"));
                memory[role as usize] += mib("RssAnon:");
            } else {
                memory[role as usize] += mib("VmHWM:");
            }
        }
        memory[Role::Postgres as usize] += shared;
        Ok(memory)
    }

    /// What each process has in memory now, in MiB, by its name; all of PostgreSQL's together, without what they
    /// share.
    pub(crate) fn resident(&self, cluster: &Cluster) -> Result<Vec<(String, f64)>> {
        let members = cluster.members();
        let name = |process: u32| {
            let member = members.iter().find(|member| member.pid() == process);
            member.map(|member| member.instance().to_owned())
        };
        let mut resident: Vec<(String, f64)> = Vec::new();
        for (role, process) in self.processes(cluster)? {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let mib = field(&status, "RssAnon:") / 1024.0;
            let name = name(process).unwrap_or_else(|| role.name().to_owned());
            match resident.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += mib,
                None => resident.push((name, mib)),
            }
        }
        Ok(resident)
    }

    fn processes(&self, cluster: &Cluster) -> Result<Vec<(Role, u32)>> {
        let mut processes = vec![
            (Role::Bench, std::process::id()),
            (Role::Postgres, self.postmaster),
        ];
        let members = cluster.members();
        let alive = members.iter().filter(|member| member.alive());
        processes.extend(alive.map(|member| (Role::of(member.service()), member.pid())));
        for entry in fs::read_dir("/proc").context("can't read /proc")? {
            let Ok(process) = entry?.file_name().to_string_lossy().parse() else {
                continue;
            };
            if parent(process) == Some(self.postmaster) {
                processes.push((Role::Postgres, process));
            }
        }
        Ok(processes)
    }
}

/// The parent of a process; none if it has ended.
pub(crate) fn parent(process: u32) -> Option<u32> {
    Stat::read(process).map(|stat| stat.parent)
}

/// What matters here of `/proc/PID/stat`; times are in clock ticks.
struct Stat {
    parent: u32,
    own: u32,
    ended_children: u32,
}

impl Stat {
    fn read(process: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // Behind the name, which may hold anything; the state is the first field there.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u32>().ok();
        Some(Self {
            parent: number(1)?,
            own: number(11)? + number(12)?,
            ended_children: number(13)? + number(14)?,
        })
    }
}

/// What all processors of the machine have spent on anything but idling, in clock ticks.
fn machine_ticks() -> Result<u32> {
    let text = fs::read_to_string("/proc/stat").context("can't read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait,) irq, softirq
    let busy: u64 = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|place| numbers.get(*place))
        .sum();
    u32::try_from(busy).context("this machine has been up for too long to count its ticks")
}

/// A number of `/proc/PID/status`, in KiB.
fn field(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}
