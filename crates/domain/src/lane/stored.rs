use std::collections::BTreeSet;

use super::{Class, Run};
use crate::{Budgets, Micros};

/// Where executions of a line are in their table: all of its class with own numbers within these that were
/// accepted for at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first number that may be one of theirs.
    pub from: u64,
    /// The last one's number.
    pub to: u64,
    /// None was accepted before this.
    pub since: Micros,
    /// None was accepted after this.
    pub until: Micros,
}

impl Span {
    /// Whether a number may be one of theirs.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        (self.from..=self.to).contains(&seq)
    }
}

/// Executions that wait in one line and that memory doesn't know one by one: they are read from their table
/// before their turn comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    pub(super) span: Span,
    pub(super) count: u64,
    /// Those of the span that are over, and others that it may come to hold and that aren't theirs.
    pub(super) cancelled: BTreeSet<u64>,
}

/// What was read of executions that wait in their table: all there are of a class with numbers from `from` to
/// `upto`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPage {
    /// Where the span began of which it was read.
    pub from: u64,
    /// How far it was read.
    pub upto: u64,
    /// Their numbers, in order, and when each was accepted. Some are over.
    pub found: Vec<(u64, Micros)>,
}

/// The first executions of a line that waited in their table wait in memory from here on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recalled {
    /// The line they wait in.
    pub class: Class,
    /// They, in order.
    pub runs: Vec<Run>,
    /// Up to this number none waits in the table any more.
    pub upto: u64,
}

/// What was read of a table isn't what the chain says is there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{found} executions were read up to number {upto}, of {count} that wait up to {to}")]
pub struct Misread {
    found: u64,
    upto: u64,
    count: u64,
    to: u64,
}

impl Stored {
    /// `count` executions that were accepted together.
    pub(super) fn new(first: u64, count: u32, at: Micros) -> Self {
        let (to, since, until) = (first + u64::from(count) - 1, at, at);
        Self {
            span: Span {
                from: first,
                to,
                since,
                until,
            },
            count: u64::from(count),
            cancelled: BTreeSet::new(),
        }
    }

    /// Where they are.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether a number of the line's own that was accepted for at once is one of theirs.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.span.holds(seq) && !self.cancelled.contains(&seq)
    }

    /// More of the class came, right behind them. A new owner's clock may be behind that of the last one.
    pub(super) fn extend(&mut self, more: &Self) {
        self.span.to = more.span.to;
        self.span.since = self.span.since.min(more.span.since);
        self.span.until = self.span.until.max(more.span.until);
        self.count += more.count;
    }

    /// A number behind them is none of theirs, though they may come to be on both sides of it.
    pub(super) fn leave_out(&mut self, seq: u64) {
        self.cancelled.insert(seq);
    }

    /// One of them is over; says whether it was one.
    pub(super) fn cancel(&mut self, seq: u64) -> bool {
        let there = self.count > 0 && self.span.holds(seq) && self.cancelled.insert(seq);
        self.count -= u64::from(there);
        there
    }

    /// What a page says of them, less those that are over.
    pub(super) fn runs_of(&self, page: &StoredPage) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let waiting = page.found.iter().filter(|(seq, _)| self.holds(*seq));
        for (seq, at) in waiting {
            match runs.last_mut() {
                Some(run) if run.first + u64::from(run.count) == *seq && run.enqueued == *at => {
                    run.count += 1;
                }
                _ => runs.push(Run {
                    first: *seq,
                    count: 1,
                    home: at.hour(),
                    enqueued: *at,
                    budgets: Budgets::default(),
                }),
            }
        }
        runs
    }

    /// Takes off what is recalled.
    ///
    /// # Errors
    /// [`Misread`]: it isn't what is first of them.
    pub(super) fn take(&mut self, recalled: &Recalled) -> Result<(), Misread> {
        let runs = &recalled.runs;
        let found: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
        let own = |run: &Run| run.first >= self.span.from && run.last() <= recalled.upto;
        let through = recalled.upto >= self.span.to;
        let fits = found <= self.count && (found == self.count || !through);
        if !fits || recalled.upto < self.span.from || !runs.iter().all(own) {
            return Err(Misread {
                found,
                upto: recalled.upto,
                count: self.count,
                to: self.span.to,
            });
        }
        self.count -= found;
        self.span.from = recalled.upto + 1;
        self.cancelled = self.cancelled.split_off(&self.span.from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::lane::{
        Draft, DueMark, InTable, Lane, NotFound, Received, Row, Timed, TimedEntry, Wait,
    };
    use crate::{ExecutionId, LaneId, Priority};

    const CLASS: Class = Class {
        tenant: 1,
        queue: 1,
        priority: Priority::Normal,
        job_type: 1,
        suspect: false,
    };

    fn page(from: u64, upto: u64, found: &[(u64, i64)]) -> StoredPage {
        let found = found.iter().map(|(seq, at)| (*seq, Micros(*at))).collect();
        StoredPage { from, upto, found }
    }

    /// 5, 6, 8 and 9, of which 6 is over.
    fn stored() -> Stored {
        let mut stored = Stored::new(5, 2, Micros(100));
        stored.extend(&Stored::new(8, 2, Micros(90)));
        assert!(stored.cancel(6) && !stored.cancel(6) && !stored.cancel(10));
        stored
    }

    fn take(stored: &mut Stored, page: &StoredPage) -> Result<Vec<Run>, Misread> {
        let (runs, upto) = (stored.runs_of(page), page.upto);
        let class = CLASS;
        stored.take(&Recalled {
            class,
            runs: runs.clone(),
            upto,
        })?;
        Ok(runs)
    }

    #[test]
    fn what_was_accepted_together_is_one_run_again_and_what_is_over_is_left_out() {
        let mut stored = stored();
        assert_eq!((stored.span().since, stored.count()), (Micros(90), 3));
        let all = page(5, 9, &[(5, 100), (6, 100), (8, 90), (9, 90)]);
        let runs = take(&mut stored, &all).unwrap();
        let runs: Vec<_> = runs.iter().map(|run| (run.first, run.count)).collect();
        assert_eq!((runs, stored.count()), (vec![(5, 1), (8, 2)], 0));
    }

    #[test]
    fn a_part_leaves_the_rest_and_forgets_who_was_cancelled_in_it() {
        let mut stored = stored();
        take(&mut stored, &page(5, 7, &[(5, 100), (6, 100)])).unwrap();
        assert_eq!((stored.span().from, stored.count()), (8, 2));
        assert!(stored.cancelled.is_empty());
        assert!(!stored.holds(5) && stored.holds(9));
    }

    const AT: Micros = Micros(1_790_000_000_000_000);

    fn step<T>(lane: &mut Lane, plan: impl FnOnce(&mut Draft<'_>) -> T) -> T {
        let mut draft = lane.draft(AT);
        let planned = plan(&mut draft);
        let row = draft.seal(1);
        lane.apply(&row).unwrap();
        planned
    }

    /// A lane with a line of 1 and 2 in memory, then 3 and 5 in their table, where 4 is for later, then one that came
    /// through the inbox.
    fn lane() -> Lane {
        let mut lane = Lane::begin(&Row::genesis(LaneId(0), AT)).unwrap();
        step(&mut lane, |draft| {
            let mark = DueMark {
                due: AT.plus(Duration::from_secs(60)),
                seq: 0,
            };
            draft.read_due(mark, []);
            draft.accept(CLASS, 2)
        });
        step(&mut lane, |draft| {
            draft.store_beyond(1);
            draft.accept(CLASS, 1);
            draft.schedule(CLASS, AT.plus(Duration::from_secs(9)));
            draft.accept(CLASS, 1);
            let (seq, class, home) = (ExecutionId::FIRST_FOREIGN_SEQ, CLASS, AT.hour());
            draft.receive(Received { seq, class, home });
        });
        lane
    }

    fn claim_all(draft: &mut Draft<'_>) -> Vec<u64> {
        let worker = Arc::from("worker-1");
        let claimed = std::iter::from_fn(|| draft.claim(CLASS, 9, &worker));
        claimed.flat_map(|run| run.seqs()).collect()
    }

    #[test]
    fn a_line_is_claimed_up_to_what_is_to_be_read_and_goes_on_from_there() {
        let mut lane = lane();
        assert_eq!((lane.waiting().len(), lane.depth(1)), (5, 5));
        let claimed = step(&mut lane, |draft| {
            assert!(!draft.is_to_be_read(CLASS));
            let claimed = claim_all(draft);
            assert!(draft.is_to_be_read(CLASS));
            claimed
        });
        assert_eq!(claimed, [1, 2]);
        let read = page(3, 5, &[(3, AT.0), (5, AT.0)]);
        assert_eq!(step(&mut lane, |draft| draft.recall(CLASS, &read)), Ok(()));
        assert_eq!(lane.waiting().stored_count(), 0);
        let again = step(&mut lane, |draft| draft.recall(CLASS, &read));
        assert_eq!(again, Ok(()), "it is out of date");
        let claimed = step(&mut lane, claim_all);
        assert_eq!(claimed, [3, 5, ExecutionId::FIRST_FOREIGN_SEQ]);
    }

    #[test]
    fn who_was_cancelled_between_two_that_wait_in_their_table_stays_over() {
        let mut lane = Lane::begin(&Row::genesis(LaneId(0), AT)).unwrap();
        let full = |draft: &mut Draft<'_>| {
            draft.store_beyond(1);
            draft.accept(CLASS, 1)
        };
        // There is room again when the third comes, and none when the fourth does.
        step(&mut lane, |draft| draft.accept(CLASS, 1));
        step(&mut lane, full);
        step(&mut lane, |draft| draft.accept(CLASS, 1));
        let mark = DueMark { due: AT, seq: 3 };
        let (home, budgets, wait) = (AT.hour(), Budgets::default(), Wait::Scheduled);
        let third = TimedEntry {
            mark,
            class: CLASS,
            home,
            budgets,
            wait,
        };
        let cancel = |draft: &mut Draft<'_>| draft.cancel(third, InTable::Fresh);
        assert_eq!(step(&mut lane, cancel), Ok(true));
        step(&mut lane, full);
        assert_eq!(step(&mut lane, cancel), Err(NotFound));
        assert_eq!(lane.waiting().stored_count(), 2);
        let again = Lane::from_snapshot(lane.id(), &lane.to_snapshot()).unwrap();
        assert_eq!(again, lane);
        let read = page(2, 4, &[(2, AT.0), (3, AT.0), (4, AT.0)]);
        step(&mut lane, |draft| draft.recall(CLASS, &read)).unwrap();
        assert_eq!(step(&mut lane, claim_all), [1, 2, 4]);
    }

    #[test]
    fn what_waits_in_its_table_is_cancelled_once_and_what_is_for_later_is_none_of_it() {
        let mut lane = lane();
        let entry = |seq, due| {
            let (class, home, wait) = (CLASS, AT.hour(), Wait::Scheduled);
            let budgets = Budgets::default();
            let timed = Timed {
                class,
                home,
                budgets,
                wait,
            };
            timed.entry(DueMark { due, seq })
        };
        let mut cancel =
            |entry: TimedEntry, rows| step(&mut lane, |draft| draft.cancel(entry, rows));
        let later = entry(4, AT.plus(Duration::from_secs(9)));
        assert_eq!(cancel(later, InTable::No), Ok(true));
        assert_eq!(cancel(later, InTable::No), Err(NotFound));
        assert_eq!(cancel(entry(5, AT), InTable::No), Err(NotFound));
        assert_eq!(cancel(entry(5, AT), InTable::Fresh), Ok(true));
        assert_eq!(cancel(entry(5, AT), InTable::Fresh), Err(NotFound));
        assert_eq!(
            (lane.waiting().len(), lane.waiting().stored_count()),
            (4, 1)
        );
        let read = page(3, 5, &[(3, AT.0), (5, AT.0)]);
        step(&mut lane, |draft| draft.recall(CLASS, &read)).unwrap();
        let claimed = step(&mut lane, claim_all);
        assert_eq!(claimed, [1, 2, 3, ExecutionId::FIRST_FOREIGN_SEQ]);
    }

    #[test]
    fn a_page_that_lacks_one_or_has_one_too_many_is_a_misread() {
        for found in [
            &[(5, 100), (8, 90)][..],
            &[(5, 100), (7, 90), (8, 90), (9, 90)],
        ] {
            let mut stored = stored();
            assert!(take(&mut stored, &page(5, 9, found)).is_err(), "{found:?}");
            assert_eq!(stored.count(), 3);
        }
    }
}
