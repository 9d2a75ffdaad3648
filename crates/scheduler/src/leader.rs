//! The leader's duties, and how one becomes it. Every replica also keeps its own picture of the windows
//! here, since the leader makes them for all.

use std::sync::Arc;
use std::time::Duration;

use domain::Hour;
use store::{Error, Lead, Retention, Table, Term, TermHolder, within};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::household::Household;
use crate::shared::Shared;
use service::Recurring;

/// How often a follower looks whether there is a leader, and everybody at the windows.
const LOOK: Duration = Duration::from_secs(1);
/// How long the database may take for a turn. A turn that is cut off loses its connection, never a
/// transaction: what it had begun is rolled back.
const LIMIT: Duration = Duration::from_secs(6);
/// The longest back-off, in hours: its due entry must find a window.
const REACH_HOURS: i32 = 25;

/// How often what was kept apart is cleared.
const CLEAR: Duration = Duration::from_secs(60);

/// How wide windows are, and how long they stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowTerms {
    /// Hours of a new window.
    pub(crate) width: i32,
    pub(crate) retention: Retention,
}

/// Leads, or waits to.
pub(crate) struct Leader {
    shared: Arc<Shared>,
    election: Box<dyn Lead>,
    lease: Duration,
    lanes: u16,
    terms: WindowTerms,
    house: Household,
    cleared: Instant,
    term: Option<(Term, Instant)>,
    /// With the lead.
    trouble: Recurring,
    /// With the windows.
    blindness: Recurring,
}

impl Leader {
    pub(crate) fn new(
        shared: Arc<Shared>,
        holder: TermHolder,
        lanes: u16,
        terms: WindowTerms,
    ) -> Self {
        let lease = holder.lease;
        let election = shared.database.election(holder);
        Self {
            house: Household::new(Arc::clone(&shared.database)),
            shared,
            election,
            lease,
            lanes,
            terms,
            cleared: Instant::now(),
            term: None,
            trouble: Recurring::default(),
            blindness: Recurring::default(),
        }
    }

    /// Leads whenever nobody else does, until the shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = looks.tick() => {}
                () = shutdown.cancelled() => break,
            }
            match within(LIMIT, self.turn()).await {
                Ok(()) => drop(self.trouble.end()),
                Err(error) => self.step_down(&error.to_string()),
            }
            match look_at_windows(&self.shared).await {
                Ok(()) => drop(self.blindness.end()),
                Err(error) if self.blindness.is_news(&error.to_string()) => {
                    tracing::warn!(%error, "the windows can't be read just now");
                }
                Err(_) => {}
            }
        }
        if let Some((term, _)) = self.term.take() {
            self.note_lost("shutdown");
            if let Err(error) = self.election.resign(&term).await {
                tracing::warn!(%error, "can't resign: the lead's lease runs out");
            }
        }
    }

    /// One look: campaign or renew, and the duties. Renewal comes after the duties have been done, so
    /// that a leader whose work hangs doesn't keep the lead.
    async fn turn(&mut self) -> Result<(), Error> {
        let Some((term, sent)) = self.term.clone() else {
            return self.campaign().await;
        };
        if sent.elapsed() >= self.lease - self.lease / 16 {
            return Err(Error::TermOver {
                epoch: term.epoch(),
            });
        }
        self.duties(&term).await?;
        if sent.elapsed() >= self.lease / 4 {
            let sent = Instant::now();
            let term = self.election.renew(&term).await?;
            self.term = Some((term, sent));
        }
        Ok(())
    }

    async fn campaign(&mut self) -> Result<(), Error> {
        let sent = Instant::now();
        let Some(term) = self.election.campaign().await? else {
            return Ok(());
        };
        let epoch = term.epoch();
        self.shared.metrics.is_leader.set(1);
        self.shared.metrics.transitions.inc();
        self.shared.metrics.epoch.set(epoch);
        tracing::info!(event = "leadership_acquired", epoch, "this scheduler leads");
        self.term = Some((term.clone(), sent));
        self.duties(&term).await
    }

    async fn duties(&mut self, term: &Term) -> Result<(), Error> {
        let width = self.terms.width;
        let now = self.shared.clock.now();
        let lacks = self.shared.windows.borrow().lacks(now, width, REACH_HOURS);
        if lacks {
            let made = self.election.make_windows(term, width, REACH_HOURS).await?;
            if made > 0 {
                tracing::info!(event = "windows_made", made, "windows made ahead");
            }
        }
        // As the database has them now: one that was restored may be from before they were made.
        let lanes = self.shared.view.borrow().lane_owners.len();
        if lanes < usize::from(self.lanes) {
            self.election.make_lanes(term, self.lanes).await?;
        }
        self.turn_windows(term).await?;
        self.house.keep(now);
        Ok(())
    }

    /// Lets go of windows whose time is over, and of what outlived them long enough.
    async fn turn_windows(&mut self, term: &Term) -> Result<(), Error> {
        let retention = self.terms.retention;
        let windows = Arc::clone(&self.shared.windows.borrow());
        let now = self.shared.clock.now();
        let ripe: Vec<(Table, Hour)> = windows.ripe(now, retention).collect();
        if !ripe.is_empty() || windows.is_turning() {
            let changed = self.election.turn_windows(term, &ripe).await?;
            if changed > 0 {
                tracing::info!(
                    event = "windows_turned",
                    changed,
                    "windows are on their way out"
                );
            }
        }
        if self.cleared.elapsed() >= CLEAR {
            self.cleared = Instant::now();
            self.election.clear_kept(term, retention).await?;
        }
        Ok(())
    }

    fn step_down(&mut self, reason: &str) {
        match self.term.take() {
            Some(_) => self.note_lost(reason),
            None if self.trouble.is_news(reason) => {
                tracing::warn!(reason, "no lead can be won just now");
            }
            None => {}
        }
    }

    fn note_lost(&self, reason: &str) {
        self.shared.metrics.is_leader.set(0);
        self.shared.metrics.epoch.set(0);
        self.shared.metrics.transitions.inc();
        tracing::warn!(
            event = "leadership_lost",
            reason,
            "this scheduler leads no more"
        );
    }
}

async fn look_at_windows(shared: &Shared) -> Result<(), Error> {
    let windows = shared.database.windows().await?;
    shared.windows.send_if_modified(|current| {
        let changed = **current != windows;
        if changed {
            *current = Arc::new(windows);
        }
        changed
    });
    Ok(())
}
