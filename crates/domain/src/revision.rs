//! What somebody may do to an execution that is over.

use crate::{ExecutionState, Reason};

/// What somebody wants of an execution that is over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Revision {
    /// To have it run again.
    Retry,
    /// To have it out of the dead letters.
    Discard,
}

/// What a revision makes of an execution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revised {
    /// It stands so from here on.
    Now(ExecutionState, Reason),
    /// It stands so by the same revision already.
    Already(ExecutionState),
    /// It isn't over.
    Open,
    /// It is over, but not so that this could be done to it.
    Over(ExecutionState),
}

impl Revision {
    /// What it makes of an execution whose last outcome says that it stands so; `None`: it has none.
    #[must_use]
    pub fn of(self, last: Option<(ExecutionState, Reason)>) -> Revised {
        use ExecutionState::{Cancelled, DeadLettered, Failed, Queued, Succeeded};
        let Some((state, reason)) = last else {
            return Revised::Open;
        };
        match (self, state) {
            (Self::Retry, Failed | DeadLettered | Cancelled) => {
                Revised::Now(Queued, Reason::Redriven)
            }
            (Self::Retry, Queued) if reason == Reason::Redriven => Revised::Already(state),
            (Self::Discard, DeadLettered) if reason == Reason::Discarded => Revised::Already(state),
            (Self::Discard, DeadLettered) => Revised::Now(state, Reason::Discarded),
            (Self::Retry, Succeeded) | (Self::Discard, Succeeded | Failed | Cancelled) => {
                Revised::Over(state)
            }
            _ => Revised::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_and_did_not_succeed_runs_again_and_nothing_else_does() {
        for state in ExecutionState::ALL {
            let revised = Revision::Retry.of(Some((state, Reason::None)));
            let again = state.is_final() && state != ExecutionState::Succeeded;
            let expected = Revised::Now(ExecutionState::Queued, Reason::Redriven);
            assert_eq!(revised == expected, again, "{state:?}");
        }
        assert_eq!(Revision::Retry.of(None), Revised::Open);
    }

    #[test]
    fn dead_letters_are_discarded_and_stay_what_they_are() {
        for state in ExecutionState::ALL {
            let revised = Revision::Discard.of(Some((state, Reason::Poison)));
            let expected = Revised::Now(ExecutionState::DeadLettered, Reason::Discarded);
            assert_eq!(revised == expected, state == ExecutionState::DeadLettered);
        }
    }

    #[test]
    fn doing_it_again_does_no_harm() {
        for revision in [Revision::Retry, Revision::Discard] {
            let dead = Some((ExecutionState::DeadLettered, Reason::Poison));
            let Revised::Now(state, reason) = revision.of(dead) else {
                panic!("{revision:?}");
            };
            assert_eq!(revision.of(Some((state, reason))), Revised::Already(state));
        }
    }

    #[test]
    fn what_was_discarded_may_run_again() {
        let discarded = (ExecutionState::DeadLettered, Reason::Discarded);
        let revised = Revision::Retry.of(Some(discarded));
        assert!(matches!(revised, Revised::Now(ExecutionState::Queued, _)));
    }
}
