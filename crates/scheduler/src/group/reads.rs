//! What a group reads before it plans: between two commits of the lanes' only writer, so that what is read
//! is all there is.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::lane::{DueMark, InboxMark, Lane, TimedEntry};
use domain::{Hour, LaneId, Micros};
use store::{Error, ExecutionPlace, InboxRead, KeptEntry, LastEnd, WindowMap, within};
use tokio::time::Instant;

use super::actor::Group;
use super::commit::COMMIT_LIMIT;
use super::input::Revise;
use super::side::Side;

/// Due entries that one read takes.
const DUE_PAGE: usize = 10_000;
/// Entries of a lane's inbox that one read takes.
const INBOX_PAGE: usize = 5_000;
/// What was kept for later that one batch moves.
const KEPT_PAGE: usize = 500;
/// How often the inboxes are looked into without being asked.
const INBOX_LOOK: Duration = Duration::from_secs(1);
/// The same, and for how long, where a lane has come: what was handed in while nobody owned it is there.
const INBOX_LOOK_FIRST: Duration = Duration::from_millis(50);
const INBOX_FILLS: Duration = Duration::from_secs(2);

/// What was read for one batch.
#[derive(Default)]
pub(super) struct Reads {
    /// Of the `due` table: up to which mark, and what.
    pub(super) due: Vec<(LaneId, DueMark, Vec<TimedEntry>)>,
    /// Of what is kept for later and has its window now; and up to which hour, where that is all.
    pub(super) kept: Vec<(LaneId, Vec<KeptEntry>, Option<Hour>)>,
    pub(super) inbox: Vec<InboxRead>,
    /// How what is to be revised stands, by lane and number.
    pub(super) ends: BTreeMap<(LaneId, u64), LastEnd>,
}

impl Group {
    pub(super) async fn read(
        &mut self,
        windows: &WindowMap,
        at: Micros,
        revisions: &[Revise],
    ) -> Result<Reads, Error> {
        Ok(Reads {
            ends: self.read_ends(windows, revisions).await?,
            kept: self.read_kept(windows).await?,
            due: self.read_due(windows, at).await?,
            inbox: self.read_inbox(windows, at).await?,
        })
    }

    /// Reads how executions stand that somebody wants to revise: memory doesn't know what is over.
    async fn read_ends(
        &mut self,
        windows: &WindowMap,
        revisions: &[Revise],
    ) -> Result<BTreeMap<(LaneId, u64), LastEnd>, Error> {
        if revisions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let place = |revise: &Revise| {
            let id = revise.known.id;
            ExecutionPlace {
                lane: id.lane(),
                seq: id.seq(),
                home: id.home(),
            }
        };
        let places: Vec<ExecutionPlace> = revisions.iter().map(place).collect();
        within(COMMIT_LIMIT, self.writer.last_ends(windows, &places)).await
    }

    /// Reads what is kept for later, in the lanes that don't know of the newest windows yet.
    async fn read_kept(
        &mut self,
        windows: &WindowMap,
    ) -> Result<Vec<(LaneId, Vec<KeptEntry>, Option<Hour>)>, Error> {
        let reach = windows.reach();
        let behind = |lane: &&Lane| lane.kept_until() < reach;
        let lanes = self.lanes.values().filter(behind).map(Lane::id);
        let mut kept = Vec::new();
        for lane in lanes.collect::<Vec<_>>() {
            let reading = self.writer.kept_due(lane, reach, KEPT_PAGE);
            let entries = within(COMMIT_LIMIT, reading).await?;
            let all = entries.len() < KEPT_PAGE;
            kept.push((lane, entries, all.then_some(reach)));
        }
        Ok(kept)
    }

    /// Reads on in the lanes' due entries where less than half the horizon is left; never beyond what has
    /// its rows in windows.
    async fn read_due(
        &mut self,
        windows: &WindowMap,
        at: Micros,
    ) -> Result<Vec<(LaneId, DueMark, Vec<TimedEntry>)>, Error> {
        let horizon = self.shared.due_horizon;
        let half = at.plus(horizon / 2);
        let upto = |lane: &Lane| {
            let due = at.plus(horizon).min(lane.kept_until().start());
            let seq = u64::MAX >> 1;
            DueMark { due, seq }
        };
        let behind = |lane: &&Lane| lane.due_read().due < half && lane.due_read() < upto(lane);
        let lanes: Vec<(LaneId, DueMark, DueMark)> = self
            .lanes
            .values()
            .filter(behind)
            .map(|lane| (lane.id(), lane.due_read(), upto(lane)))
            .collect();
        let mut reads = Vec::new();
        for (lane, after, mut mark) in lanes {
            let timer = self.shared.metrics.polling.start_timer();
            let entries = within(
                COMMIT_LIMIT,
                self.writer
                    .due_entries(windows, lane, (after, mark), DUE_PAGE),
            )
            .await?;
            timer.observe_duration();
            if let Some(last) = entries.last().filter(|_| entries.len() >= DUE_PAGE) {
                mark = last.mark;
            }
            reads.push((lane, mark, entries));
        }
        Ok(reads)
    }

    /// Looks into the inboxes once in a while, and when somebody says that there is something.
    async fn read_inbox(
        &mut self,
        windows: &WindowMap,
        at: Micros,
    ) -> Result<Vec<InboxRead>, Error> {
        self.sides
            .values_mut()
            .for_each(|side| side.turning.inbox_reading = None);
        let paging = |lane: &Lane| lane.inbox_read().page.is_some();
        if self.inbox_looked.elapsed() < self.inbox_pace() && !self.lanes.values().any(paging) {
            return Ok(Vec::new());
        }
        let lanes = self.lanes.values();
        let lanes: Vec<(LaneId, InboxMark)> =
            lanes.map(|l| (l.id(), l.inbox_read().clone())).collect();
        let begin = Instant::now();
        let reading = self.writer.read_inbox(windows, &lanes, (at, INBOX_PAGE));
        let reads = within(COMMIT_LIMIT, reading).await?;
        self.inbox_looked = Instant::now();
        for (lane, mark) in &lanes {
            // What an earlier snapshot saw, read page by page, is not all there is.
            let more = reads
                .iter()
                .any(|read| read.lane == *lane && read.mark.page.is_some());
            if mark.page.is_none()
                && !more
                && let Some(side) = self.sides.get_mut(lane)
            {
                side.turning.inbox_reading = Some(begin);
            }
        }
        Ok(reads)
    }

    pub(super) fn inbox_pace(&self) -> Duration {
        let came = |side: &Side| side.adopted.elapsed() < INBOX_FILLS;
        match self.sides.values().any(came) {
            true => INBOX_LOOK_FIRST,
            false => INBOX_LOOK,
        }
    }
}
