use std::time::Instant;

use bytes::Bytes;
use proto::v1;
use proto::v1::work_request::Message as Request;
use tokio::sync::mpsc;

use super::peers::{PeerId, backoff};
use super::schedulers::SchedulerRef;
use super::session::Event;
use super::{Link, seeds};
use crate::metrics::unix_seconds;
use crate::notice::Notice;

/// What `/health` calls the link.
const COMPONENT: &str = "schedulers";

/// The search for a first scheduler.
pub(super) struct Seeding {
    resolving: bool,
    rounds: u32,
    next: Instant,
    /// Why there is none yet.
    trouble: Option<String>,
}

impl Seeding {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            resolving: false,
            rounds: 0,
            next: now,
            trouble: None,
        }
    }
}

impl Link {
    /// Sees to it that there is a session with every scheduler, or under way; without any, the
    /// seeds are asked.
    pub(super) fn reach_out(&mut self, now: Instant) {
        for (scheduler, address) in self.schedulers.addresses() {
            if self.peers.with(*scheduler).is_none() {
                self.peers.dial(address);
            }
        }
        let alone = self.peers.standing().next().is_none();
        if alone && !self.seeding.resolving && self.seeding.next <= now {
            self.seeding.resolving = true;
            let (seeds, events) = (self.profile.seeds.clone(), self.events.clone());
            tokio::spawn(async move {
                let found = seeds::resolve(&seeds).await;
                let _ = events.send(Event::Seeds(found)).await;
            });
        }
    }

    pub(super) fn seeds_found(&mut self, found: Result<Vec<String>, String>) {
        self.seeding.resolving = false;
        self.seeding.rounds = self.seeding.rounds.saturating_add(1);
        self.seeding.next = Instant::now() + backoff(self.seeding.rounds);
        match found {
            Ok(addresses) => {
                for address in &addresses {
                    self.peers.dial(address);
                }
            }
            Err(reason) => {
                let is_news = self.seeding.trouble.as_ref() != Some(&reason);
                self.unreachable(self.profile.seeds.join(","), reason, is_news);
                self.report_readiness();
            }
        }
    }

    /// A connection stands: the worker introduces itself.
    pub(super) fn opened(&mut self, peer: PeerId, outbox: mpsc::Sender<v1::WorkRequest>) {
        // What Hello says is held must be.
        self.stop_what_lost_its_right(Instant::now());
        self.peers.open(peer, outbox);
        let window = self.share_out_by_hello(peer);
        let profile = &self.profile;
        let hello = v1::Hello {
            worker_id: profile.worker_id.clone(),
            incarnation: profile.incarnation.clone(),
            pool: profile.pool.clone(),
            slots: profile.slots,
            job_types: profile.job_types.clone(),
            queues: profile.queues.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            held: self.holdings.to_wire(&self.schedulers),
            window,
        };
        // The outbox is new, so there is room in it.
        self.peers.send(peer, Request::Hello(hello));
    }

    /// A scheduler's terms came: it can be worked with.
    pub(super) fn welcomed(&mut self, peer: PeerId, welcome: v1::Welcome, until: Instant) {
        let scheduler = self.schedulers.refer(&welcome.scheduler_id);
        if !self.peers.welcome(peer, scheduler) {
            return;
        }
        self.seeding.rounds = 0;
        self.seeding.trouble = None;
        self.tell(Notice::Registered {
            scheduler_id: welcome.scheduler_id,
        });
        // First of all whose lanes they are: it extends no right to those that it has given up.
        if let Some(view) = welcome.cluster_view {
            self.see(view, scheduler);
        }
        self.rights.extend(scheduler, until);
        // An older session with the same scheduler is gone now, and what it had with it.
        self.resend_what_moved();
        self.share_out();
        self.report_readiness();
    }

    /// A heartbeat was answered.
    pub(super) fn extended(&mut self, peer: PeerId, until: Instant) {
        let Some(scheduler) = self.peers.scheduler_of(peer) else {
            return;
        };
        self.rights.extend(scheduler, until);
        self.runner.metrics.heartbeat.set(unix_seconds());
        self.tell(Notice::Heartbeat { load: self.running });
    }

    /// A session is over.
    pub(super) fn lost(&mut self, peer: PeerId, reason: String) {
        let Some((lost, is_news)) = self.peers.lose(peer, &reason) else {
            return;
        };
        match lost.scheduler {
            Some(_) => self.tell(Notice::StreamLost {
                address: lost.address,
                reason,
            }),
            None => self.unreachable(lost.address, reason, is_news),
        }
        self.resend_what_went_to(peer);
        self.share_out();
        self.report_readiness();
        self.reach_out(Instant::now());
    }

    /// The schedulers or the lanes changed: new owners are told what is held, and get the results
    /// that the old ones have not settled.
    pub(super) fn see(&mut self, view: v1::ClusterView, by: SchedulerRef) {
        let handovers = self.schedulers.update(view, Some(by));
        let mut gained: Vec<PeerId> = Vec::new();
        for handover in handovers {
            self.rights.hand_over(handover);
            gained.extend(handover.to.and_then(|owner| self.peers.with(owner)));
        }
        gained.sort_unstable();
        gained.dedup();
        for peer in gained {
            let held = self.holdings.to_wire(&self.schedulers);
            if !self
                .peers
                .send(peer, Request::Holding(v1::Holding { held }))
            {
                // It doesn't read. Its next Hello will tell it.
                self.lost(peer, "it doesn't read what it is sent".to_owned());
            }
        }
        self.resend_what_moved();
        self.reach_out(Instant::now());
    }

    /// Ready while there is a scheduler to work for.
    pub(super) fn report_readiness(&self) {
        let standing = self.peers.standing().count();
        let state = match standing {
            0 => Err(self
                .seeding
                .trouble
                .clone()
                .unwrap_or_else(|| "not connected yet".to_owned())),
            _ => Ok(()),
        };
        self.readiness.set(COMPONENT, state);
        self.readiness.set_fact(COMPONENT, "connected", standing);
    }

    /// Told once for each reason, not at each try.
    fn unreachable(&mut self, address: String, reason: String, is_news: bool) {
        self.seeding.trouble = Some(reason.clone());
        if is_news {
            self.tell(Notice::Unreachable { address, reason });
        }
    }
}

/// 16 random bytes that tell this process from an earlier one of the same name.
pub(crate) fn incarnation() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 16]>())
}
