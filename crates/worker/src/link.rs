//! The worker's link to its schedulers: all streams and heartbeats, and the book of what is held.
//!
//! It lives on a thread with a runtime of its own, and nothing in it waits for a handler, for the
//! log or for a slow stream: handlers that block the runtime they run on can't stop heartbeats.

mod deliver;
mod drain;
mod heartbeat;
mod held;
mod intake;
mod lapse;
mod membership;
mod peers;
mod permit;
mod prefetch;
mod progress;
mod recall;
mod rights;
mod saving;
mod schedulers;
mod seeds;
mod session;
mod sharing;
mod way;
mod windows;

use std::collections::{VecDeque, hash_map::DefaultHasher};
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::ExecutionId;
use service::Readiness;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};

use self::drain::Drain;
use self::heartbeat::Shown;
use self::held::Holdings;
pub(crate) use self::membership::incarnation;
use self::peers::Peers;
use self::permit::Permits;
use self::progress::News;
use self::rights::Rights;
use self::saving::Unsaved;
use self::schedulers::Schedulers;
use self::session::Event;
use self::sharing::Sharing;
use crate::account::Said;
use crate::journal::LogBudget;
use crate::notice::Notice;
use crate::outcome::Report;
use crate::runner::Runner;

/// How often leases, late results and windows are looked after.
const TICK: Duration = Duration::from_millis(100);
/// Messages of all sessions that wait for the link; further ones stay in their streams.
const EVENTS: usize = 256;
/// How many of each are taken at once: what is ready together travels together.
const BATCH: usize = 4_096;

/// What the worker says of itself and how it is reached.
pub(crate) struct Profile {
    pub(crate) worker_id: String,
    pub(crate) pool: String,
    pub(crate) slots: u32,
    pub(crate) queues: Vec<String>,
    pub(crate) job_types: Vec<String>,
    pub(crate) incarnation: Bytes,
    pub(crate) seeds: Vec<String>,
    pub(crate) authorization: MetadataValue<Ascii>,
    /// How long a shutdown may take.
    pub(crate) shutdown_grace: Duration,
}

/// What the link works with, from outside.
pub(crate) struct Surroundings {
    pub(crate) runner: Arc<Runner>,
    pub(crate) readiness: Readiness,
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) shutdown: CancellationToken,
}

/// The state of the link.
struct Link {
    profile: Profile,
    runner: Arc<Runner>,
    readiness: Readiness,
    notices: mpsc::UnboundedSender<Notice>,
    events: mpsc::Sender<Event>,
    peers: Peers,
    schedulers: Schedulers,
    rights: Rights,
    holdings: Holdings,
    /// Held, and waiting for a slot; some may be gone since.
    waiting: VecDeque<ExecutionId>,
    /// Results to be sent now.
    outgoing: Vec<ExecutionId>,
    unsaved: Unsaved,
    news: News,
    /// Where handlers say what they have to say.
    to_link: mpsc::UnboundedSender<Said>,
    /// Attempts that have a slot, also those whose right is gone and whose handler still blocks.
    running: u32,
    shown: Arc<Shown>,
    log_budget: LogBudget,
    sharing: Sharing,
    permit: Permits,
    seeding: membership::Seeding,
    drain: Option<Drain>,
}

/// Runs the link on this thread, until it has drained after the shutdown began.
///
/// # Errors
/// The thread can't have a runtime.
pub(crate) fn run(
    profile: Profile,
    surroundings: Surroundings,
    ends: mpsc::UnboundedReceiver<Report>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (events, received) = mpsc::channel(EVENTS);
        let (to_link, said) = mpsc::unbounded_channel();
        let shutdown = surroundings.shutdown.clone();
        Link::new(profile, surroundings, (events, to_link))
            .work(received, (ends, said), shutdown)
            .await;
    });
    // A name look-up that hangs must not hold the end.
    runtime.shutdown_background();
    Ok(())
}

impl Link {
    fn new(
        profile: Profile,
        around: Surroundings,
        (events, to_link): (mpsc::Sender<Event>, mpsc::UnboundedSender<Said>),
    ) -> Self {
        let now = Instant::now();
        let shown = Arc::new(Shown::default());
        let peers = Peers::new(
            profile.authorization.clone(),
            events.clone(),
            Arc::clone(&shown),
        );
        let turn = first_turn(&profile.worker_id);
        let sharing = Sharing::new(profile.slots, turn, now);
        Self {
            profile,
            runner: around.runner,
            readiness: around.readiness,
            notices: around.notices,
            events,
            peers,
            schedulers: Schedulers::default(),
            rights: Rights::default(),
            holdings: Holdings::default(),
            waiting: VecDeque::new(),
            outgoing: Vec::new(),
            unsaved: Unsaved::default(),
            news: News::default(),
            to_link,
            running: 0,
            shown,
            log_budget: LogBudget::new(now),
            sharing,
            permit: Permits::default(),
            seeding: membership::Seeding::new(now),
            drain: None,
        }
    }

    /// Takes what comes, in turns. After each turn slots are filled, results and windows sent.
    async fn work(
        mut self,
        mut received: mpsc::Receiver<Event>,
        (mut ends, mut said): (
            mpsc::UnboundedReceiver<Report>,
            mpsc::UnboundedReceiver<Said>,
        ),
        shutdown: CancellationToken,
    ) {
        let (mut events, mut reports, mut words) = (Vec::new(), Vec::new(), Vec::new());
        let mut ending = false;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.report_readiness();
        while !self.has_left() {
            let sharing_due = self.sharing.due();
            tokio::select! {
                () = shutdown.cancelled(), if !ending => {
                    ending = true;
                    self.begin_drain(Drain::within(Instant::now(), self.profile.shutdown_grace));
                }
                _ = received.recv_many(&mut events, EVENTS) => {}
                _ = ends.recv_many(&mut reports, BATCH) => {}
                _ = said.recv_many(&mut words, BATCH) => {}
                _ = ticks.tick() => self.tick(),
                () = at(sharing_due) => {}
            }
            if !(events.is_empty() && reports.is_empty()) {
                self.sharing.touch();
            }
            for event in events.drain(..) {
                self.take(event);
            }
            for word in words.drain(..) {
                self.hear(word);
            }
            // Before the results: what a handler saved goes before its end.
            self.send_checkpoints();
            for report in reports.drain(..) {
                self.ended(report);
            }
            self.fill_slots();
            self.pass_permit(Instant::now());
            self.send_results();
            self.share_if_due(Instant::now());
        }
        self.leave().await;
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Opened { peer, outbox } => self.opened(peer, outbox),
            Event::Welcomed {
                peer,
                welcome,
                until,
            } => self.welcomed(peer, welcome, until),
            Event::Extended { peer, until } => self.extended(peer, until),
            Event::Received { peer, message } => self.received(peer, message),
            Event::Lost { peer, reason } => self.lost(peer, reason),
            Event::Seeds(found) => self.seeds_found(found),
        }
    }

    /// What a handler says while it runs.
    fn hear(&mut self, word: Said) {
        match word {
            Said::Checkpoint(new) => self.unsaved.note(new, Instant::now()),
            Said::Progress(attempt) => self.news.note(attempt),
        }
    }

    /// What time alone brings.
    fn tick(&mut self) {
        let now = Instant::now();
        self.take_turns(now);
        self.stop_what_lost_its_right(now);
        self.give_up_what_cannot_be_stopped(now);
        self.forget_what_cannot_be_saved();
        self.resend_what_is_late(now);
        self.send_progress(now);
        self.drain_on(now);
        self.reach_out(now);
    }

    fn tell(&self, notice: Notice) {
        // The reader goes after the link.
        let _ = self.notices.send(notice);
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

/// Workers begin at different schedulers with what an even split leaves over.
fn first_turn(worker_id: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    worker_id.hash(&mut hasher);
    u32::try_from(hasher.finish() >> 40).unwrap_or(0)
}
