//! Doing the damage, writing it down, and starting again who died of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster::{Member, Service};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use crate::clock;
use crate::history::{Fault, FaultKind};
use crate::journal::Journal;
use crate::load::Clients;
use crate::plan::Planned;
use crate::proxy::Trouble;
use crate::site::{Site, WORKER_LEASE, calls_log};
use crate::under_way::UnderWay;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a worker is watched for a moment at which it runs something.
const AIM_FOR: Duration = Duration::from_secs(5);
const AIM_EVERY: Duration = Duration::from_millis(3);
/// Longer than a process' grace.
const TERMINATED_WITHIN: Duration = Duration::from_secs(20);
const DELAY: Duration = Duration::from_millis(150);
/// How many long calls are under way when workers are cut off; a third is that scheduler's.
const LONG_CALLS: usize = 3;
/// A start may fall into a time without a database.
const STARTS: usize = 10;

/// Who does damage.
#[derive(Clone)]
pub(crate) struct Saboteur {
    site: Arc<Site>,
    clients: Clients,
    journal: Arc<Journal>,
    under_way: Arc<Mutex<UnderWay>>,
    /// One fault at a time for each target.
    turns: Arc<BTreeMap<String, Arc<Mutex<()>>>>,
}

impl Saboteur {
    /// Works on a site, and writes its log in the run's directory.
    ///
    /// # Errors
    /// A log can't be opened.
    pub(crate) fn of(site: &Arc<Site>, clients: &Clients, dir: &Path) -> Result<Self> {
        let members = site.cluster.members();
        let names = members.iter().map(|member| member.instance().to_owned());
        let names = names.chain(site.ways.keys().cloned());
        let names = names.chain(["database".to_owned()]);
        let saboteur = Self {
            site: Arc::clone(site),
            clients: clients.clone(),
            journal: Arc::new(Journal::open(&dir.join("faults.jsonl"))?),
            under_way: Arc::new(Mutex::new(UnderWay::of(&calls_log(dir)))),
            turns: Arc::new(names.map(|name| (name, Arc::default())).collect()),
        };
        for member in members {
            saboteur.note(&member, FaultKind::Start, clock::now(), None)?;
        }
        Ok(saboteur)
    }

    /// Does all that is planned, each at its time, and returns when everybody is up again.
    ///
    /// # Errors
    /// Somebody doesn't get up again.
    pub(crate) async fn carry_out(&self, plan: Vec<Planned>) -> Result<()> {
        let begin = Instant::now();
        let mut faults = JoinSet::new();
        for planned in plan {
            let us = self.clone();
            faults.spawn(async move {
                sleep_until(begin + planned.after).await;
                let turn = us.turns.get(&planned.target).context("no such target")?;
                let _turn = Arc::clone(turn).lock_owned().await;
                us.strike(&planned)
                    .await
                    .with_context(|| format!("{planned:?}"))
            });
        }
        while let Some(done) = faults.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Starts again who ends by itself, until this is dropped.
    ///
    /// # Errors
    /// Somebody doesn't get up again.
    pub(crate) async fn look_after_all(&self) -> Result<()> {
        loop {
            for member in self.site.cluster.members() {
                // Who is about to be struck, or has just been, is somebody else's to look after.
                let Some(_turn) = self.free_turn(member.instance()) else {
                    continue;
                };
                if !member.alive() {
                    self.note(&member, FaultKind::Exit, clock::now(), None)?;
                    self.start_again(&member).await?;
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the workers in order: from then on no handler runs.
    ///
    /// # Errors
    /// One doesn't end.
    pub(crate) async fn stop_workers(&self) -> Result<()> {
        for member in self.site.cluster.members() {
            if member.service() == Service::Worker {
                let begin = clock::now();
                member.terminate(TERMINATED_WITHIN).await?;
                self.note(&member, FaultKind::Terminate, begin, Some(clock::now()))?;
            }
        }
        Ok(())
    }

    fn free_turn(&self, target: &str) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(self.turns.get(target)?).try_lock_owned().ok()
    }

    async fn strike(&self, planned: &Planned) -> Result<()> {
        match planned.kind {
            FaultKind::Kill | FaultKind::Pause | FaultKind::Terminate => {
                let member = self.site.cluster.member(&planned.target)?;
                self.strike_process(&member, planned).await
            }
            FaultKind::Restart | FaultKind::Crash => self.strike_database(planned).await,
            FaultKind::Delay
            | FaultKind::Stall
            | FaultKind::Blackhole
            | FaultKind::HalfOpen
            | FaultKind::Reset => self.trouble(planned).await,
            FaultKind::Start | FaultKind::Exit => bail!("that is no fault to plan"),
        }
    }

    async fn strike_process(&self, member: &Member, planned: &Planned) -> Result<()> {
        if member.service() == Service::Worker {
            self.aim(member).await?;
        }
        let begin = clock::now();
        match planned.kind {
            FaultKind::Pause => {
                member.pause()?;
                sleep(planned.lasts).await;
                member.resume()?;
                return self.note(member, FaultKind::Pause, begin, Some(clock::now()));
            }
            FaultKind::Terminate => {
                member.terminate(TERMINATED_WITHIN).await?;
            }
            _ => member.kill()?,
        }
        let (pid, end) = (member.pid(), clock::now());
        sleep(planned.lasts).await;
        self.start_again(member).await?;
        self.journal.write(&Fault {
            kind: planned.kind,
            target: planned.target.clone(),
            pid: Some(pid),
            begin,
            end,
            up: Some(clock::now()),
        })
    }

    /// Waits until a worker runs something, so that it hurts.
    async fn aim(&self, worker: &Member) -> Result<()> {
        let until = Instant::now() + AIM_FOR;
        while Instant::now() < until && !self.under_way.lock().await.runs_on(worker.pid())? {
            sleep(AIM_EVERY).await;
        }
        Ok(())
    }

    async fn strike_database(&self, planned: &Planned) -> Result<()> {
        let begin = clock::now();
        if planned.kind == FaultKind::Crash {
            let postgres = Arc::clone(&self.site.postgres);
            spawn_blocking(move || postgres.kill()).await??;
            sleep(planned.lasts).await;
        }
        let postgres = Arc::clone(&self.site.postgres);
        spawn_blocking(move || postgres.restart()).await??;
        self.note_way(planned, begin)
    }

    async fn trouble(&self, planned: &Planned) -> Result<()> {
        if outlasts_leases(planned) {
            self.occupy(planned).await?;
        }
        let way = self.site.ways.get(&planned.target);
        let way = way.context("no such way")?.wire();
        let begin = clock::now();
        match planned.kind {
            FaultKind::Reset => way.reset(),
            FaultKind::Delay => way.turn(Trouble::Delay(DELAY)),
            FaultKind::Stall => way.turn(Trouble::Stall),
            FaultKind::HalfOpen if begin % 2 == 0 => way.turn(Trouble::Deaf),
            FaultKind::HalfOpen => way.turn(Trouble::Mute),
            _ => way.turn(Trouble::Blackhole),
        }
        sleep(planned.lasts).await;
        way.turn(Trouble::None);
        self.note_way(planned, begin)
    }

    /// Has something run that is still running when others may be given it.
    async fn occupy(&self, planned: &Planned) -> Result<()> {
        let name = format!("long-{}", clock::now());
        let lasts = planned.lasts + 2 * WORKER_LEASE;
        self.clients.hand_in_long(&name, LONG_CALLS, lasts).await
    }

    async fn start_again(&self, member: &Member) -> Result<()> {
        let mut tries = 0;
        loop {
            let started = self.site.cluster.restart(member.instance()).await;
            tries += 1;
            match started {
                Ok(()) => return self.note(member, FaultKind::Start, clock::now(), None),
                Err(why) if tries == STARTS => return Err(why),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    fn note(
        &self,
        member: &Member,
        kind: FaultKind,
        begin: clock::Micros,
        end: Option<clock::Micros>,
    ) -> Result<()> {
        self.journal.write(&Fault {
            kind,
            target: member.instance().to_owned(),
            pid: Some(member.pid()),
            begin,
            end: end.unwrap_or(begin),
            up: None,
        })
    }

    fn note_way(&self, planned: &Planned, begin: clock::Micros) -> Result<()> {
        self.journal.write(&Fault {
            kind: planned.kind,
            target: planned.target.clone(),
            pid: None,
            begin,
            end: clock::now(),
            up: None,
        })
    }
}

/// Whether workers are cut off from a scheduler for so long that they lose their right to what they run.
fn outlasts_leases(planned: &Planned) -> bool {
    let cuts = matches!(
        planned.kind,
        FaultKind::Stall | FaultKind::Blackhole | FaultKind::HalfOpen
    );
    cuts && planned.target.starts_with("to ") && planned.lasts > WORKER_LEASE / 2
}
