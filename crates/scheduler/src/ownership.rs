//! Which lanes are this scheduler's own: it says that it lives, renews its leases, takes what nobody
//! owns up to its fair share, and gives up what is beyond.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::lane::DatabaseIdentity;
use domain::{LaneId, Micros};
use proto::v1::{ClusterView, SchedulerAddress, work_response};
use store::{Claimant, Error, KeepLeases, LaneLease, Membership, Renewal, WriteLanes, within};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::group::{Adopted, Input};
use crate::shared::{Groups, Shared};
use service::Recurring;

/// How often the leases are renewed: a lease outlives two lost renewals.
const RENEWALS_PER_LEASE: u32 = 4;
/// How often membership is looked at, and with it what is there to take.
const LOOK: Duration = Duration::from_millis(500);

/// How long the database may take to answer about leases.
const LIMIT: Duration = Duration::from_secs(4);

/// How long a scheduler of another token waits for those of the last one to come back: an outage, or a restart
/// of all of them, isn't a change of the token.
const INSISTS: Duration = Duration::from_secs(30);

/// How long a lane whose take-over failed is left alone.
const PAUSE: Duration = Duration::from_secs(2);

/// Keeps the lanes of one scheduler.
pub(crate) struct LaneKeeper {
    shared: Arc<Shared>,
    groups: Groups,
    claimant: Claimant,
    lanes: u16,
    leases: Box<dyn KeepLeases>,
    /// Lanes that a group had to drop.
    dropped: mpsc::UnboundedReceiver<Vec<LaneId>>,
    /// Lanes that were taken over, or couldn't be.
    arrivals: (
        mpsc::UnboundedSender<Arrival>,
        mpsc::UnboundedReceiver<Arrival>,
    ),
    /// Every lease that is held.
    held: BTreeMap<LaneId, LaneLease>,
    /// Of those: the ones that are being taken over.
    coming: BTreeSet<LaneId>,
    /// Of those: the ones that a group has.
    adopted: BTreeSet<LaneId>,
    /// Lanes whose take-over failed: each jumps far ahead, so they are not tried without pause.
    not_before: BTreeMap<LaneId, Instant>,
    renewed: Option<Instant>,
    /// When the last renewal was that was heard to be written, by the database's clock.
    said: Option<Micros>,
    /// The database that the leases are in.
    identity: Option<DatabaseIdentity>,
    trouble: Recurring,
    /// Since when it has been refused though nobody else lives.
    alone: Option<Instant>,
}

struct Arrival {
    lease: LaneLease,
    adopted: Result<Box<Adopted>, Error>,
}

impl LaneKeeper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        groups: Groups,
        claimant: Claimant,
        lanes: u16,
        dropped: mpsc::UnboundedReceiver<Vec<LaneId>>,
    ) -> Self {
        Self {
            leases: shared.database.leases(),
            shared,
            groups,
            claimant,
            lanes,
            dropped,
            arrivals: mpsc::unbounded_channel(),
            held: BTreeMap::new(),
            coming: BTreeSet::new(),
            adopted: BTreeSet::new(),
            not_before: BTreeMap::new(),
            renewed: None,
            said: None,
            identity: None,
            trouble: Recurring::default(),
            alone: None,
        }
    }

    /// Keeps the lanes until the shutdown, then gives them up.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = looks.tick() => self.look().await,
                Some(lanes) = self.dropped.recv() => self.note_dropped(&lanes),
                Some(arrival) = self.arrivals.1.recv() => self.welcome(arrival).await,
                () = self.shared.lanes_freed.notified() => self.look().await,
                () = shutdown.cancelled() => break,
            }
            self.note_lanes_owned();
        }
        self.leave().await;
    }

    /// Past its deadline it owns nothing, as far as it knows.
    fn note_lanes_owned(&self) {
        let owned = match self.shared.deadline.has_passed() {
            true => 0,
            false => i64::try_from(self.adopted.len()).unwrap_or(i64::MAX),
        };
        self.shared.metrics.lanes_owned.set(owned);
    }

    async fn look(&mut self) {
        match self.try_look().await {
            Ok(()) => self.note_well(),
            Err(error) => self.note_trouble(&error),
        }
        self.shared
            .metrics
            .note_pool(self.shared.database.pool_use());
    }

    fn note_trouble(&mut self, error: &Error) {
        self.alone = match error {
            Error::OtherToken { others } if others.is_empty() => {
                self.alone.or_else(|| Some(Instant::now()))
            }
            // Others live, or nobody can tell.
            _ => None,
        };
        if matches!(error, Error::Database { .. }) {
            self.shared.metrics.db_errors.inc();
        }
        let told = error.to_string();
        if self.trouble.is_news(&told) {
            match error {
                Error::OtherToken { .. } => {
                    tracing::error!(event = "service_token_refused", %error, "no lanes are taken");
                }
                _ => {
                    tracing::warn!(event = "lease_trouble", %error, "leases can't be kept just now");
                }
            }
        }
        self.shared.lease_trouble.send_replace(Some(told));
    }

    fn note_well(&mut self) {
        if self.trouble.end() {
            tracing::info!(event = "lease_trouble_over", "leases are kept again");
            self.shared.lease_trouble.send_replace(None);
        }
    }

    async fn try_look(&mut self) -> Result<(), Error> {
        let every = self.claimant.lease / RENEWALS_PER_LEASE;
        if self
            .renewed
            .is_none_or(|renewed| renewed.elapsed() >= every)
        {
            self.renew().await?;
        }
        let membership = within(LIMIT, self.leases.membership(self.claimant.lease)).await?;
        self.balance(&membership).await?;
        self.publish(&membership);
        self.take_over_what_came();
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), Error> {
        // Who holds nothing, or no more, comes in as everybody does.
        if self.shared.deadline.has_passed() {
            let insists = self.alone.is_some_and(|since| since.elapsed() >= INSISTS);
            within(LIMIT, self.leases.admit(&self.claimant, insists)).await?;
        }
        let sent = Instant::now();
        let renewal = within(LIMIT, self.leases.renew(&self.claimant)).await?;
        self.shared.clock.set(renewal.now, sent);
        let leases = match self.knows_us(&renewal) {
            true => renewal.leases,
            false => self.begin_anew(&renewal).await?,
        };
        (self.identity, self.said) = (Some(renewal.identity), Some(renewal.now));
        self.reconcile(leases).await;
        self.shared.deadline.renewed(sent, self.claimant.lease);
        self.renewed = Some(sent);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.shared.metrics.heartbeat.set(now.as_secs_f64());
        Ok(())
    }

    /// Another database than the last one, another timeline of it, or one that doesn't know this scheduler's
    /// last renewal may lack the last rows that this scheduler knows.
    fn knows_us(&self, renewal: &Renewal) -> bool {
        let is_same = self
            .identity
            .is_none_or(|before| before == renewal.identity);
        is_same && self.said.is_none_or(|said| renewal.last >= Some(said))
    }

    /// Every lane is let go and its lease given back, to be taken anew: a lease of an older copy has a number
    /// that workers may know to be over. Gives the leases of lanes that are not let go in time.
    async fn begin_anew(&mut self, renewal: &Renewal) -> Result<Vec<LaneLease>, Error> {
        tracing::error!(event = "database_changed", before = ?self.identity, now = ?renewal.identity,
            "the database failed over or was restored: its last commits may be lost; all lanes are taken anew");
        let adopted: Vec<LaneId> = self.adopted.iter().copied().collect();
        let silent = self.let_go(&adopted).await;
        let is_held = |lane: &LaneId| adopted.contains(lane) && !silent.contains(lane);
        let (held, free): (Vec<LaneLease>, Vec<LaneLease>) = renewal
            .leases
            .iter()
            .partition(|lease| is_held(&lease.lane));
        let free: Vec<LaneId> = free.iter().map(|lease| lease.lane).collect();
        within(LIMIT, self.leases.release(&self.claimant, &free)).await?;
        self.held.retain(|lane, _| !free.contains(lane));
        Ok(held)
    }

    /// Believes the database about the leases: what it doesn't have any more is let go, and what it has
    /// beyond (taken, or not released, by a statement whose answer was lost) is held.
    async fn reconcile(&mut self, leases: Vec<LaneLease>) {
        let leases: BTreeMap<LaneId, LaneLease> = leases
            .into_iter()
            .map(|lease| (lease.lane, lease))
            .collect();
        let lost = |lease: &&LaneLease| leases.get(&lease.lane) != Some(*lease);
        let lost: Vec<LaneId> = self
            .held
            .values()
            .filter(lost)
            .map(|lease| lease.lane)
            .collect();
        if !lost.is_empty() {
            tracing::warn!(
                event = "lanes_lost",
                lanes = lost.len(),
                "leases ran out before renewal"
            );
            self.let_go(&lost).await;
        }
        self.held = leases;
    }

    /// Takes what nobody owns up to the fair share, gives up what is beyond.
    async fn balance(&mut self, membership: &Membership) -> Result<(), Error> {
        let live = membership.schedulers.len().max(1);
        let share = usize::from(self.lanes).div_ceil(live);
        if self.held.len() < share {
            let most = share - self.held.len();
            for lease in within(LIMIT, self.leases.take(&self.claimant, most)).await? {
                self.held.insert(lease.lane, lease);
            }
        }
        if self.held.len() > share {
            let surplus = self.held.keys().rev().take(self.held.len() - share);
            let surplus: Vec<LaneId> = surplus.copied().collect();
            let silent = self.let_go(&surplus).await;
            for lane in &silent {
                self.held.remove(lane);
            }
            within(LIMIT, self.leases.release(&self.claimant, &silent)).await?;
        }
        Ok(())
    }

    /// Workers hear of it and the groups stop writing to the lanes first; only then may anybody else have
    /// them. Gives those whose groups have said so in time: the leases of all must go on being renewed. Any
    /// other lane is taken over again, by its group's next inputs.
    async fn let_go(&mut self, lanes: &[LaneId]) -> Vec<LaneId> {
        self.disown(lanes);
        let drops = lanes.iter().map(|lane| {
            self.adopted.remove(lane);
            let (done, gone) = oneshot::channel();
            let group = self.groups.of(*lane).clone();
            let lane = *lane;
            async move {
                group.send(Input::Drop(vec![lane], done)).await;
                gone.await.ok().map(|()| lane)
            }
        });
        let patience = self.claimant.lease / RENEWALS_PER_LEASE;
        let drops = drops.map(|drop| tokio::time::timeout(patience, drop));
        let gone = futures::future::join_all(drops).await;
        gone.into_iter()
            .filter_map(|gone| gone.ok().flatten())
            .collect()
    }

    /// A group has lanes no more whose leases are held still, or are over already: then the next renewal, by which
    /// beats are answered again, finds nothing to give up.
    fn note_dropped(&mut self, lanes: &[LaneId]) {
        self.disown(lanes);
        for lane in lanes {
            self.adopted.remove(lane);
        }
        self.take_over_what_came();
    }

    /// Begins to take over every lane whose lease is held and that no group has.
    fn take_over_what_came(&mut self) {
        let now = Instant::now();
        self.not_before.retain(|_, until| *until > now);
        let wanting = |lease: &&LaneLease| {
            let LaneLease { lane, .. } = lease;
            !self.adopted.contains(lane)
                && !self.coming.contains(lane)
                && !self.not_before.contains_key(lane)
        };
        let wanted: Vec<LaneLease> = self.held.values().filter(wanting).copied().collect();
        let Some(identity) = self.identity.filter(|_| !wanted.is_empty()) else {
            return;
        };
        // Perhaps the database has lost what is remembered of it: lanes are taken over from what it has now.
        self.shared.catalog.forget();
        self.coming.extend(wanted.iter().map(|lease| lease.lane));
        tokio::spawn(take_over(
            Arc::clone(&self.shared),
            (wanted, identity),
            self.arrivals.0.clone(),
        ));
    }

    /// A lane counts only under the lease that it was taken over with.
    async fn welcome(&mut self, Arrival { lease, adopted }: Arrival) {
        let lane = lease.lane;
        self.coming.remove(&lane);
        if self.held.get(&lane) != Some(&lease) {
            return;
        }
        match adopted {
            Ok(adopted) => {
                self.groups.of(lane).send(Input::Adopt(adopted)).await;
                self.adopted.insert(lane);
                self.announce(lane);
            }
            Err(Error::LeaseOver { .. }) => {
                self.held.remove(&lane);
            }
            Err(error) => {
                self.not_before.insert(lane, Instant::now() + PAUSE);
                tracing::warn!(event = "take_over_failed", partition = lane.0, %error,
                    "the lane can't be taken over just now; trying again");
            }
        }
    }

    /// The view tells that nobody owns these lanes. No worker's heartbeat is answered before it knows: what it
    /// holds of them it may run by the answers that it has, for which the next owner waits.
    fn disown(&self, lanes: &[LaneId]) {
        self.shared.view.send_if_modified(|view| {
            let is_given_up = |place| lanes.iter().any(|lane| usize::from(lane.0) == place);
            self.shared.disown(Arc::make_mut(view), is_given_up)
        });
    }

    /// Shows every worker the lane without an owner and then with its own, so that each says what it
    /// holds of it even if the owner has not changed.
    fn announce(&self, lane: LaneId) {
        let mut view = ClusterView::clone(&self.shared.view.borrow());
        let place = usize::from(lane.0);
        // The view may be from before the lane came, or was made.
        if view.lane_owners.len() <= place {
            view.lane_owners.resize(place + 1, 0);
            view.lane_epochs.resize(place + 1, 0);
        }
        let epoch = self.held.get(&lane).map_or(0, |lease| lease.epoch);
        view.lane_epochs[place] = u64::try_from(epoch).unwrap_or(0);
        view.lane_owners[place] = self.shared.place_in(&view).unwrap_or(0);
        let mut without = view.clone();
        self.shared.disown(&mut without, |other| other == place);
        // First of all: a stream that is being opened misses the messages, and sees that the view has changed.
        self.shared.view.send_replace(Arc::new(view.clone()));
        for session in self.shared.sessions.all() {
            session.send(work_response::Message::ClusterView(without.clone()));
            session.send(work_response::Message::ClusterView(view.clone()));
        }
    }

    /// Tells gateways and workers who lives and who owns what, if that has changed.
    fn publish(&self, membership: &Membership) {
        let place = |holder: &str| {
            let found = membership
                .schedulers
                .iter()
                .position(|(id, _)| id == holder);
            found
                .and_then(|place| u32::try_from(place + 1).ok())
                .unwrap_or(0)
        };
        let owner = |lane: &store::LaneOwner| match &lane.holder {
            // A lane of one's own counts once a group has it.
            Some(holder) if *holder == self.claimant.id && !self.adopted.contains(&lane.lane) => 0,
            Some(holder) => place(holder),
            None => 0,
        };
        let epoch = |lane: &store::LaneOwner| u64::try_from(lane.epoch).unwrap_or(0);
        let schedulers = membership
            .schedulers
            .iter()
            .map(|(id, address)| SchedulerAddress {
                scheduler_id: id.clone(),
                address: address.clone(),
            });
        let view = ClusterView {
            schedulers: schedulers.collect(),
            lane_owners: membership.lanes.iter().map(owner).collect(),
            lane_epochs: membership.lanes.iter().map(epoch).collect(),
        };
        self.shared.view.send_if_modified(|current| {
            let changed = **current != view;
            if changed {
                *current = Arc::new(view);
            }
            changed
        });
    }

    /// Gives everything up, so that others needn't wait for the leases to run out.
    async fn leave(&mut self) {
        let lanes: Vec<LaneId> = self.held.keys().copied().collect();
        let lanes = self.let_go(&lanes).await;
        match within(LIMIT, self.leases.leave(&self.claimant, &lanes)).await {
            Ok(()) => tracing::info!(
                event = "lanes_released",
                lanes = lanes.len(),
                "lanes given up"
            ),
            Err(error) => tracing::warn!(%error, "lanes can't be given up: their leases run out"),
        }
    }
}

/// Takes lanes over, one after the other, and reads what runs in them.
async fn take_over(
    shared: Arc<Shared>,
    (leases, identity): (Vec<LaneLease>, DatabaseIdentity),
    arrivals: mpsc::UnboundedSender<Arrival>,
) {
    let mut writer = shared.database.writer();
    for lease in leases {
        let adopted = take_over_one(&shared, &mut *writer, (&lease, identity)).await;
        let _ = arrivals.send(Arrival { lease, adopted });
    }
}

async fn take_over_one(
    shared: &Shared,
    writer: &mut dyn WriteLanes,
    (lease, identity): (&LaneLease, DatabaseIdentity),
) -> Result<Box<Adopted>, Error> {
    let now = shared.clock.now();
    let lane = writer.take_over(lease, identity, now).await?;
    let windows = Arc::clone(&shared.windows.borrow());
    let running = shared.known_running(&windows, &lane).await?;
    Ok(Box::new(Adopted { lane, running }))
}
