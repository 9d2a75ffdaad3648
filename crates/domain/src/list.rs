//! The order of lists, and how parts of one list from several places become one.

use std::collections::BTreeMap;

use crate::{LaneId, Micros};

/// A place in the order of a list: by a time, then by lane and number, so that no two executions share
/// one. Lists go from the greatest down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListMark {
    /// The time that the list goes by.
    pub at: Micros,
    /// The execution's lane.
    pub lane: LaneId,
    /// Its number there.
    pub seq: u64,
}

impl ListMark {
    /// Where every list begins: before all there is, to the end of the year 9999.
    pub const BEGIN: Self = Self {
        at: Micros(253_402_300_799_999_999),
        lane: LaneId(LaneId::MAX_LANES),
        seq: i64::MAX as u64,
    };
    /// Where every list ends: after all there is.
    pub const END: Self = Self {
        at: Micros(0),
        lane: LaneId(0),
        seq: 0,
    };
}

/// A part of a list without gaps: everything from where it begins down to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch<T> {
    /// What is there, the greatest first.
    pub items: Vec<(ListMark, T)>,
    /// The last place that it tells of; `None`: it goes to the end of the list.
    pub end: Option<ListMark>,
}

impl<T> Stretch<T> {
    /// One list of two that begin at the same place. It tells of no place that one of them leaves out.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let end = self.end.max(other.end);
        let mut items: BTreeMap<ListMark, T> = self.items.into_iter().collect();
        items.extend(other.items);
        let items = match end {
            Some(end) => items.split_off(&end),
            None => items,
        };
        Self {
            items: items.into_iter().rev().collect(),
            end,
        }
    }

    /// The same part with something else at each place.
    #[must_use]
    pub fn map<U>(self, change: impl Fn(T) -> U) -> Stretch<U> {
        let items = self.items.into_iter();
        Stretch {
            items: items.map(|(mark, item)| (mark, change(item))).collect(),
            end: self.end,
        }
    }
}

/// The first so many of a list, found in any order, each once.
#[derive(Clone, Debug)]
pub struct Foremost<T> {
    before: ListMark,
    limit: usize,
    found: BTreeMap<ListMark, T>,
}

impl<T> Foremost<T> {
    /// At most `limit` of what comes after the place `before`.
    #[must_use]
    pub fn new(before: ListMark, limit: usize) -> Self {
        Self {
            before,
            limit,
            found: BTreeMap::new(),
        }
    }

    /// Whether something at this place would be one of them, as far as is known.
    #[must_use]
    pub fn wants(&self, mark: ListMark) -> bool {
        mark < self.before && self.floor().is_none_or(|floor| mark > floor)
    }

    /// The last of them, once there are so many: what comes after it is none of them any more.
    #[must_use]
    pub fn floor(&self) -> Option<ListMark> {
        let last = self.found.first_key_value().map(|(mark, _)| *mark);
        last.filter(|_| self.found.len() >= self.limit)
    }

    /// Adds what was found, if it is wanted.
    pub fn add(&mut self, mark: ListMark, item: T) {
        if !self.wants(mark) {
            return;
        }
        self.found.insert(mark, item);
        if self.found.len() > self.limit {
            self.found.pop_first();
        }
    }

    /// What was found, everything there is having been added.
    #[must_use]
    pub fn into_stretch(self) -> Stretch<T> {
        let end = self.floor();
        Stretch {
            items: self.found.into_iter().rev().collect(),
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark((at, lane, seq): (i64, u16, u64)) -> ListMark {
        let (at, lane) = (Micros(at), LaneId(lane));
        ListMark { at, lane, seq }
    }

    fn foremost(marks: &[ListMark], before: ListMark, limit: usize) -> Stretch<()> {
        let mut foremost = Foremost::new(before, limit);
        marks.iter().for_each(|mark| foremost.add(*mark, ()));
        foremost.into_stretch()
    }

    /// Reads a list to its end, page by page, each page merged of its parts.
    fn pages(parts: &[Vec<ListMark>], limit: usize) -> Vec<ListMark> {
        let (mut all, mut before) = (Vec::new(), ListMark::BEGIN);
        loop {
            let stretches = parts.iter().map(|part| foremost(part, before, limit));
            let Some(page) = stretches.reduce(Stretch::merge) else {
                return all;
            };
            all.extend(page.items.iter().map(|(mark, ())| *mark));
            match page.end {
                Some(end) => before = end,
                None => return all,
            }
        }
    }

    proptest! {
        #[test]
        fn pages_of_merged_parts_tell_of_everything_once_and_in_order(
            parts in prop::collection::vec(
                prop::collection::vec((1i64..9, 0u16..3, 1u64..9), 0..40), 1..5),
            limit in 1usize..7,
        ) {
            let parts: Vec<Vec<ListMark>> = parts
                .into_iter()
                .map(|part| part.into_iter().map(mark).collect())
                .collect();
            let mut all: Vec<ListMark> = parts.iter().flatten().copied().collect();
            all.sort_unstable();
            all.dedup();
            all.reverse();
            prop_assert_eq!(pages(&parts, limit), all);
        }
    }

    #[test]
    fn a_part_that_is_cut_off_hides_what_the_others_have_beyond_its_end() {
        let marks: Vec<ListMark> = (1..=9).map(|at| mark((at, 0, 1))).collect();
        let (even, odd): (Vec<_>, Vec<_>) = marks.into_iter().partition(|mark| mark.at.0 % 2 == 0);
        let cut = foremost(&even, ListMark::BEGIN, 2);
        assert_eq!(cut.end, Some(mark((6, 0, 1))));
        let whole = foremost(&odd, ListMark::BEGIN, 9);
        assert_eq!(whole.end, None);
        let merged = cut.merge(whole);
        let times: Vec<i64> = merged.items.iter().map(|(mark, ())| mark.at.0).collect();
        assert_eq!(
            (times, merged.end),
            (vec![9, 8, 7, 6], Some(mark((6, 0, 1))))
        );
    }

    #[test]
    fn every_place_lies_between_the_begin_of_a_list_and_its_end() {
        let last = mark((1, 0, 0));
        let first = mark((253_402_300_799_999_999, 4_095, u64::MAX >> 1));
        assert!(ListMark::END < last && first < ListMark::BEGIN);
    }
}
