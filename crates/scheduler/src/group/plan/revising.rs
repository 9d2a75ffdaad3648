//! What somebody does to executions that are over.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::lane::Reopened;
use domain::{ExecutionState, LaneId, Micros, Reason, Revised, Revision};
use store::{LastEnd, Outcome};

use super::ending::without_attempt;
use super::{Planner, RevisedNow};
use crate::group::input::{Revise, RevisedVerdict};
use crate::shared::{Known, Work};

impl Planner<'_> {
    /// Revises what somebody wants revised, by what its rows say. After the claims: the row's number is that of
    /// the outcome, and nothing may be claimed by the same.
    pub(in crate::group) fn revise(
        &mut self,
        revisions: &[Revise],
        ends: &BTreeMap<(LaneId, u64), LastEnd>,
    ) {
        for revise in revisions {
            let id = revise.known.id;
            let end = ends.get(&(id.lane(), id.seq())).copied();
            let verdict = self.revise_one(revise, end);
            self.effects.revise_verdicts.push(verdict);
        }
    }

    fn revise_one(&mut self, revise: &Revise, end: Option<LastEnd>) -> RevisedVerdict {
        let id = revise.known.id;
        if self
            .effects
            .revised
            .iter()
            .any(|other| other.known.id == id)
        {
            return RevisedVerdict::NotNow;
        }
        let last = end.map(|end| end.last);
        let stands = last.map(|last| (last.state, Reason::from_number(last.reason)));
        let stands = stands.map(|(state, reason)| (state, reason.unwrap_or(Reason::None)));
        match revise.revision.of(stands) {
            Revised::Already(state) => RevisedVerdict::Done(state),
            Revised::Open => RevisedVerdict::Open,
            Revised::Over(state) => RevisedVerdict::Over(state),
            Revised::Now(state, reason) => {
                // Nothing is decided of what has no outcome.
                let Some(end) = end else {
                    return RevisedVerdict::Open;
                };
                self.change(revise, end, (state, reason))
            }
        }
    }

    fn change(
        &mut self,
        revise: &Revise,
        end: LastEnd,
        (state, reason): (ExecutionState, Reason),
    ) -> RevisedVerdict {
        let (id, at) = (revise.known.id, self.at);
        let class = revise.known.work.class();
        let (seq, home) = (id.seq(), id.home());
        let Some(draft) = self.draft(id.lane()) else {
            return RevisedVerdict::NotNow;
        };
        if draft.lane().is_closing(home) && !end.is_kept {
            return RevisedVerdict::Leaving;
        }
        let fence = draft.fence();
        let mut known = revise.known.clone();
        let mut attempt = u16::try_from(end.last.attempt).unwrap_or(0);
        if revise.revision == Revision::Retry {
            let reopened = Reopened {
                seq,
                class,
                home,
                saved: end.saved,
            };
            if draft.reopen(reopened).is_err() {
                return RevisedVerdict::Open;
            }
            attempt = 0;
            known = again(&known, at);
            self.remember_again(known.clone());
        }
        let place = self.place(id.lane(), home);
        self.batch.outcomes.push(Outcome {
            attempt,
            state,
            reason,
            place,
            ..without_attempt(&known, fence, at)
        });
        self.effects.revised.push(RevisedNow {
            known,
            state,
            reason,
        });
        RevisedVerdict::Done(state)
    }
}

/// The same execution, its total time anew from `at`.
fn again(known: &Known, at: Micros) -> Known {
    let work = Work {
        reopened: Some(at),
        ..Work::clone(&known.work)
    };
    Known {
        work: Arc::new(work),
        ..known.clone()
    }
}
