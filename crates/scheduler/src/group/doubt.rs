//! Commits whose answer was lost.

use std::time::Duration;

use domain::lane::Row;
use store::{Batch, Error, Settled, WindowMap, within};

use super::actor::Group;
use super::commit::COMMIT_LIMIT;
use crate::clock::Term;

/// How long is waited before the database is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// How many tries a line in the log stands for.
const TOLD_EVERY: u32 = 50;

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It stands.
    Committed,
    /// It was never committed, and its lanes are as they were.
    Never,
    /// The same, because some of its idempotency keys are known.
    KeyTaken,
    /// The same, because a foreign transaction holds some of its idempotency keys.
    Blocked,
    /// It was never committed: somebody else writes to one of its lanes.
    Deposed,
    /// Nobody knows, and this owner has no time left to find out.
    Unknown,
}

impl Group {
    /// Finds out what became of a batch: an empty row in the place of one of its rows waits for whatever is
    /// under way, and then one of the two is there for good. All rows of a batch share its fate. The commit
    /// began in `term`.
    pub(super) async fn settle(&mut self, windows: &WindowMap, batch: &Batch, term: Term) -> Fate {
        let Some(row) = batch.rows.first() else {
            return Fate::Committed;
        };
        let mut tries = 0;
        while !self.shared.deadline.has_passed() {
            let Some(blank) = self.blank(row) else {
                return Fate::Unknown;
            };
            match within(COMMIT_LIMIT, self.writer.settle(windows, &blank)).await {
                Ok(Settled::Never) => {
                    self.apply_row(&blank);
                    return Fate::Never;
                }
                Ok(Settled::There(there)) if there == row.link.batch => {
                    return self.commit_once_more(windows, batch).await;
                }
                Ok(Settled::There(_)) => return Fate::Deposed,
                // Neither the row nor the one before it. Had anybody else been able to have the lane since the
                // commit began, the row could have been there, and have gone with its window.
                Err(Error::Deposed { .. }) if self.shared.deadline.term() == Some(term) => {
                    return Fate::Deposed;
                }
                Err(Error::Deposed { .. }) => return Fate::Unknown,
                Err(error) => {
                    self.note_database_error(&error);
                    tries += 1;
                    if tries % TOLD_EVERY == 0 {
                        tracing::warn!(event = "commit_still_in_doubt", lanes = batch.rows.len(), tries,
                            %error, "what became of a commit can't be found out yet");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Fate::Unknown
    }

    /// A batch that was found committed is told of after one more commit: the first may not have reached
    /// its standby when its session broke, the second has passed it on the same way.
    async fn commit_once_more(&mut self, windows: &WindowMap, batch: &Batch) -> Fate {
        let Some(row) = batch.rows.first() else {
            return Fate::Committed;
        };
        let Some(mut lane) = self.lanes.get(&row.lane).cloned() else {
            return Fate::Unknown;
        };
        let own = batch.rows.iter().filter(|other| other.lane == row.lane);
        if own
            .map(|row| lane.apply(row))
            .any(|applied| applied.is_err())
        {
            return Fate::Unknown;
        }
        let id = rand::Rng::random(&mut self.chance);
        let blank = lane.draft(self.shared.clock.now()).seal(id);
        let one_more = Batch {
            rows: vec![blank.clone()],
            ..Batch::default()
        };
        match within(COMMIT_LIMIT, self.writer.commit(windows, &one_more)).await {
            Ok(()) => {
                self.after = Some(blank);
                Fate::Committed
            }
            // Even if somebody else writes to the lane by now: the batch is there, and nobody may be told that
            // nothing was taken.
            Err(_) => Fate::Unknown,
        }
    }

    /// An empty row in the place of `row`.
    fn blank(&mut self, row: &Row) -> Option<Row> {
        let id = rand::Rng::random(&mut self.chance);
        let lane = self.lanes.get(&row.lane)?;
        Some(lane.draft(row.at).seal(id))
    }
}
