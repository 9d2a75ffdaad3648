use std::sync::Arc;
use std::time::Duration;

use domain::lane::Delta;
use domain::{LaneId, Micros};
use tokio::time::Instant;

use super::actor::Group;
use super::input::Input;

/// How old a lane's last snapshot gets while the lane changes.
const EVERY: Duration = Duration::from_secs(30);
/// How many bytes of rows are replayed beyond it, roughly.
const BYTES: usize = 8 << 20;
/// It isn't written more often than this many times what it took.
const SHARE: u32 = 20;
/// But no database is so slow that it is put off for longer.
const PAUSE: Duration = Duration::from_secs(30);

/// When a lane's next snapshot is due.
pub(super) struct SnapshotPace {
    last: Instant,
    took: Duration,
    bytes: usize,
    under_way: bool,
    /// The row of which the last one was written from here.
    written: Option<u64>,
    /// Somebody waits for the next.
    wanted: bool,
}

impl SnapshotPace {
    pub(super) fn new() -> Self {
        Self {
            last: Instant::now(),
            took: Duration::ZERO,
            bytes: 0,
            under_way: false,
            written: None,
            wanted: false,
        }
    }

    /// The next one is written as soon as may be, though little has changed.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether recovery needs no row from before a time.
    pub(super) fn is_beyond(&self, time: Micros) -> bool {
        let row = self.written.and_then(|n| i64::try_from(n).ok());
        row.is_some_and(|n| n >= time.0)
    }

    /// A row was applied.
    pub(super) fn note(&mut self, delta: &Delta) {
        self.bytes += delta.weight();
    }

    fn is_due(&self) -> bool {
        let since = self.last.elapsed();
        let old = self.bytes > 0 && (since >= EVERY || self.bytes >= BYTES);
        let pause = (self.took * SHARE).min(PAUSE);
        !self.under_way && (old || self.wanted) && since >= pause
    }
}

impl Group {
    /// Writes the snapshots that are due, beside the group's work: one at a time.
    pub(super) fn write_snapshots(&mut self) {
        if self.sides.values().any(|side| side.snapshots.under_way) {
            return;
        }
        let due = self
            .sides
            .iter_mut()
            .find(|(_, side)| side.snapshots.is_due());
        let Some((lane, side)) = due else { return };
        let Some(memory) = self.lanes.get(lane) else {
            return;
        };
        side.snapshots.under_way = true;
        side.snapshots.bytes = 0;
        side.snapshots.wanted = false;
        let begin = Instant::now();
        let (lane, row, body) = (*lane, memory.link(), memory.to_snapshot());
        let (shared, own) = (Arc::clone(&self.shared), self.own.clone());
        tokio::spawn(async move {
            let written = shared.database.write_snapshot(lane, row, &body).await;
            if let Err(error) = &written {
                tracing::warn!(partition = lane.0, %error, "a snapshot can't be written");
            }
            let written = written.is_ok_and(|stored| stored).then_some(row.n);
            let _ = own
                .send(Input::Snapshot(lane, written, begin.elapsed()))
                .await;
        });
    }

    /// A snapshot is written, or wasn't: the next one is due later either way.
    pub(super) fn note_snapshot(&mut self, lane: LaneId, row: Option<u64>, took: Duration) {
        if let Some(side) = self.sides.get_mut(&lane) {
            let pace = &mut side.snapshots;
            (pace.last, pace.took, pace.under_way) = (Instant::now(), took, false);
            pace.written = row.or(pace.written);
        }
    }
}
