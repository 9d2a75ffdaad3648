//! What waits in its table alone since memory was full: it is read back before its turn comes.

use std::sync::Arc;
use std::time::Duration;

use domain::lane::{Class, Span, StoredPage};
use domain::{HourRange, LaneId, Micros};
use rustc_hash::FxHashMap;
use store::{Error, WindowMap};
use tokio::time::Instant;

use super::actor::Group;
use super::input::Input;
use super::side::Side;
use crate::shared::Shared;

/// Executions of a line that one read takes, at most. A line is read on when fewer runs are left at its head.
const PAGE: usize = 2_000;
/// Rows that one statement looks at, at most: those of a line may stand far apart.
const ROWS: usize = 50_000;
/// How long is waited after a failure.
const PAUSE: Duration = Duration::from_millis(250);
/// How long is waited where rows and chain disagree.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// How much of what waits a group keeps in memory.
pub(super) struct Room {
    /// The group's share of the scheduler's runs.
    share: usize,
    full: bool,
}

impl Room {
    pub(super) fn new(share: usize) -> Self {
        let full = false;
        Self { share, full }
    }

    /// So many runs are in memory. Once it is full it is so until an eighth of it is free: or else lines would
    /// be stored in many small parts.
    fn look(&mut self, runs: usize) {
        let most = match self.full {
            true => self.share - self.share / 8,
            false => self.share,
        };
        self.full = runs >= most;
    }

    /// How many runs a line may have in memory though that is full; `None`: it isn't.
    pub(super) fn full_from(&self) -> Option<usize> {
        self.full.then_some((self.share / 4).min(PAGE))
    }

    fn page(&self) -> usize {
        (self.share / 4).clamp(1, PAGE)
    }
}

/// How far the read of a line has come.
pub(super) enum Recall {
    /// It is under way.
    Reading,
    /// The lane's next row is to say what was read.
    Read(StoredPage),
}

/// What came of the read of a line.
pub(crate) struct StoredRead {
    lane: LaneId,
    /// When the lane came: what was read for an earlier owner is worth nothing.
    adopted: Instant,
    class: Class,
    /// Nothing, if it must be read again.
    page: Option<StoredPage>,
}

impl Group {
    /// Sees how full memory is, and reads what is soon wanted and waits in its table, beside the group's work.
    pub(super) fn look_at_stored(&mut self, windows: &Arc<WindowMap>) {
        let lanes = self.lanes.values();
        self.room.look(lanes.map(|l| l.waiting().run_count()).sum());
        let page = self.room.page();
        for (id, lane) in &self.lanes {
            let Some(side) = self.sides.get_mut(id) else {
                continue;
            };
            for (class, ahead, stored) in lane.waiting().to_be_read() {
                if ahead < page && !side.recalls.contains_key(&class) {
                    side.recalls.insert(class, Recall::Reading);
                    let read = (*id, side.adopted, class, stored.span());
                    let begin = (Arc::clone(&self.shared), Arc::clone(windows));
                    let own = self.own.clone();
                    tokio::spawn(async move {
                        let read = read_stored(begin, read, page).await;
                        let _ = own.send(Input::Stored(read)).await;
                    });
                }
            }
        }
    }

    /// What was read is said by the lane's next row.
    pub(super) fn take_stored(&mut self, read: StoredRead) {
        let side = self.sides.get_mut(&read.lane);
        let Some(side) = side.filter(|side| side.adopted == read.adopted) else {
            return;
        };
        match read.page {
            Some(page) => drop(side.recalls.insert(read.class, Recall::Read(page))),
            None => drop(side.recalls.remove(&read.class)),
        }
    }

    /// What was read of a line isn't what its chain says: it is read again, not at once.
    pub(super) fn read_again_later(&mut self, lane: LaneId, class: Class) {
        let Some(side) = self.sides.get_mut(&lane) else {
            return;
        };
        side.recalls.insert(class, Recall::Reading);
        let (adopted, own) = (side.adopted, self.own.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LONG_PAUSE).await;
            let page = None;
            let read = StoredRead {
                lane,
                adopted,
                class,
                page,
            };
            let _ = own.send(Input::Stored(read)).await;
        });
    }
}

/// What was read of lanes' lines and no row has said yet.
pub(super) fn take_pages(sides: &mut FxHashMap<LaneId, Side>) -> Vec<(LaneId, Class, StoredPage)> {
    let mut pages = Vec::new();
    for (lane, side) in sides {
        let read = |_: &Class, recall: &mut Recall| matches!(recall, Recall::Read(_));
        for (class, recall) in side.recalls.extract_if(read) {
            if let Recall::Read(page) = recall {
                pages.push((*lane, class, page));
            }
        }
    }
    pages.sort_unstable_by_key(|(lane, class, _)| (*lane, *class));
    pages
}

async fn read_stored(
    (shared, windows): (Arc<Shared>, Arc<WindowMap>),
    (lane, adopted, class, span): (LaneId, Instant, Class, Span),
    most: usize,
) -> StoredRead {
    let page = shared.stored(&windows, lane, (class, span), most).await;
    let page = page.inspect_err(|error| {
        tracing::warn!(partition = lane.0, %error, "what waits can't be read; trying again");
    });
    let page = page.ok();
    if page.is_none() {
        tokio::time::sleep(PAUSE).await;
    }
    StoredRead {
        lane,
        adopted,
        class,
        page,
    }
}

impl Shared {
    /// The first executions of a span, at most `most`, or all.
    async fn stored(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        (class, span): (Class, Span),
        most: usize,
    ) -> Result<StoredPage, Error> {
        let (from, mut upto, mut found) = (span.from, span.from - 1, Vec::new());
        let mut rows = most;
        while upto < span.to && found.len() < most {
            let from = upto + 1;
            let rest = (class, Span { from, ..span });
            match self.database.stored(windows, lane, rest, rows).await {
                Ok(page) => {
                    upto = page.upto;
                    found.extend(page.found);
                }
                // So far it is right.
                Err(_) if upto >= span.from => break,
                Err(error) => return Err(error),
            }
            rows = (4 * rows).min(ROWS);
        }
        if found.len() > most {
            found.truncate(most);
            upto = found.last().map_or(upto, |(seq, _)| *seq);
        }
        Ok(StoredPage { from, upto, found })
    }

    /// The numbers of executions of some spans whose homes are in a window; hardly more than `most`.
    pub(super) async fn stored_within(
        &self,
        windows: &WindowMap,
        lane: LaneId,
        (window, stored): (HourRange, &[(Class, Span)]),
        most: usize,
    ) -> Result<Vec<u64>, Error> {
        let mut within = Vec::new();
        for (class, span) in stored {
            let mut rest = Span {
                since: span.since.max(window.from.start()),
                until: span.until.min(Micros(window.to.start().0 - 1)),
                ..*span
            };
            while rest.from <= span.to && within.len() < most {
                let page = self.database.stored(windows, lane, (*class, rest), ROWS);
                let page = page.await?;
                rest.from = page.upto + 1;
                let found = page.found.iter();
                let found = found.filter(|(_, at)| window.contains(at.hour()));
                within.extend(found.map(|(seq, _)| *seq));
            }
        }
        Ok(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_full_until_an_eighth_of_it_is_free() {
        let mut room = Room::new(800);
        for (runs, full_from) in [
            (799, None),
            (800, Some(200)),
            (700, Some(200)),
            (699, None),
            (799, None),
        ] {
            room.look(runs);
            assert_eq!(room.full_from(), full_from, "{runs}");
        }
    }

    #[test]
    fn a_page_is_no_more_than_a_part_of_the_share() {
        assert_eq!(Room::new(5_000_000).page(), PAGE);
        assert_eq!(Room::new(0).page(), 1);
    }
}
