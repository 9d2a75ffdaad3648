use domain::ListMark;
use proto::internal::v1::ListExecutionsResponse;
use proto::v1::{self, ExecutionSummary};

use super::filter::List;
use super::token;

/// A page while it is filled.
pub(super) struct Page {
    room: usize,
    fingerprint: u64,
    executions: Vec<ExecutionSummary>,
    /// What comes next; `None`: nothing.
    next: Option<ListMark>,
}

impl Page {
    pub(super) fn new(list: &List) -> Self {
        Self {
            room: list.page_size,
            fingerprint: list.fingerprint,
            executions: Vec::new(),
            next: Some(list.before),
        }
    }

    /// The page of a list that nothing is in.
    pub(super) fn empty() -> ListExecutionsResponse {
        let page = Some(v1::ListExecutionsResponse::default());
        ListExecutionsResponse { page }
    }

    /// What it goes on after.
    pub(super) fn before(&self) -> ListMark {
        self.next.unwrap_or(ListMark::END)
    }

    /// Takes what comes next of the list, which is told of down to `end`: with `None` at places of what
    /// didn't pass. Says whether the page is done.
    pub(super) fn take(
        &mut self,
        shown: Vec<(ListMark, Option<ExecutionSummary>)>,
        end: Option<ListMark>,
    ) -> bool {
        let mut shown = shown.into_iter();
        while let Some((mark, execution)) = shown.next() {
            self.executions.extend(execution);
            if self.executions.len() >= self.room {
                let more = end.is_some() || shown.any(|(_, execution)| execution.is_some());
                self.next = Some(mark).filter(|_| more);
                return true;
            }
        }
        self.next = end;
        end.is_none()
    }

    pub(super) fn finish(self) -> ListExecutionsResponse {
        let next = self.next.map(|mark| token::write(mark, self.fingerprint));
        let page = v1::ListExecutionsResponse {
            executions: self.executions,
            next_page_token: next.unwrap_or_default(),
        };
        ListExecutionsResponse { page: Some(page) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{LaneId, Micros};

    fn mark(at: i64) -> ListMark {
        let (at, lane, seq) = (Micros(at), LaneId(0), 1);
        ListMark { at, lane, seq }
    }

    /// What passes at 9, 7 and 6, and doesn't at 8.
    fn shown() -> Vec<(ListMark, Option<ExecutionSummary>)> {
        let one = |at| (mark(at), (at != 8).then(ExecutionSummary::default));
        (6..=9).rev().map(one).collect()
    }

    fn page(room: usize) -> Page {
        Page {
            room,
            fingerprint: 7,
            executions: Vec::new(),
            next: Some(ListMark::BEGIN),
        }
    }

    #[test]
    fn a_full_page_ends_at_its_last_execution() {
        let mut page = page(2);
        assert!(page.take(shown(), Some(mark(6))));
        assert_eq!((page.executions.len(), page.next), (2, Some(mark(7))));
    }

    #[test]
    fn a_page_that_isn_t_full_goes_on_where_it_was_told_of_last() {
        let mut page = page(4);
        assert!(!page.take(shown(), Some(mark(5))));
        assert_eq!(page.before(), mark(5));
        assert!(page.take(Vec::new(), None));
        assert_eq!((page.executions.len(), page.next), (3, None));
    }

    #[test]
    fn a_full_page_that_nothing_follows_has_no_token() {
        for (room, next) in [(3, None), (2, Some(mark(7)))] {
            let mut page = page(room);
            assert!(page.take(shown(), None));
            assert_eq!(page.next, next, "{room}");
        }
    }
}
