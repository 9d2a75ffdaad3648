//! What an attempt's end means for its execution: the state machine's one branching point.

use std::time::Duration;

use crate::{AttemptResult, Budgets, FinalState, Reason};

/// Lost workers that an execution survives: the next one makes it poison.
pub const MAX_LOST: u16 = 3;

/// When a failed attempt is tried again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub initial: Duration,
    /// What it is multiplied by after each further failure.
    pub multiplier: f64,
    /// No back-off is longer.
    pub max: Duration,
    /// Full jitter: each is drawn evenly between zero and its value.
    pub jitter: bool,
}

impl Backoff {
    /// The wait after `failures` failed attempts (1 and up); `draw` is a random number of [0, 1).
    #[must_use]
    pub fn after(&self, failures: u16, draw: f64) -> Duration {
        let exponent = i32::from(failures.saturating_sub(1));
        let seconds = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        let capped = seconds.min(self.max.as_secs_f64());
        Duration::from_secs_f64(if self.jitter { capped * draw } else { capped })
    }
}

/// How often, and how, failures are retried.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    /// Attempts in all: 1 to 1000.
    pub max_attempts: u16,
    /// The waits between them.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let backoff = Backoff {
            initial: Duration::from_secs(2),
            multiplier: 2.0,
            max: Duration::from_secs(3_600),
            jitter: true,
        };
        Self {
            max_attempts: 5,
            backoff,
        }
    }
}

/// What the end of an attempt makes of its execution.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    /// It is over.
    Close(FinalState),
    /// Again, after so long.
    RetryAfter(Duration),
    /// Again, as soon as there is a slot; before others of its class.
    Requeue,
}

/// A verdict, its reason, and what is used up by then.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Decision {
    /// What happens next.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The budgets after this attempt.
    pub budgets: Budgets,
}

impl Decision {
    /// The decision for an execution that somebody cancelled while the attempt ran: an end for good
    /// stands, whatever would go on is over.
    #[must_use]
    pub fn after_cancel(self) -> Self {
        match self.verdict {
            Verdict::Close(_) => self,
            Verdict::RetryAfter(_) | Verdict::Requeue => Self {
                verdict: Verdict::Close(FinalState::Cancelled),
                reason: Reason::Cancelled,
                ..self
            },
        }
    }
}

/// Decides what `result` means for an execution that has used `budgets` so far.
///
/// Three budgets stay apart: a handler's failures count against `max_attempts`, lost workers against
/// [`MAX_LOST`], and a worker's shutdown costs neither.
#[must_use]
pub fn decide(
    result: AttemptResult,
    permanent: bool,
    budgets: Budgets,
    policy: &RetryPolicy,
    draw: f64,
) -> Decision {
    match result {
        AttemptResult::Success => Decision {
            verdict: Verdict::Close(FinalState::Succeeded),
            reason: Reason::None,
            budgets: Budgets {
                attempts: budgets.attempts.saturating_add(1),
                ..budgets
            },
        },
        // A worker that stops what nobody cancelled has handed it back.
        AttemptResult::Returned | AttemptResult::Cancelled => Decision {
            verdict: Verdict::Requeue,
            reason: Reason::Returned,
            budgets,
        },
        AttemptResult::Lost => after_loss(budgets),
        AttemptResult::Error | AttemptResult::Panic | AttemptResult::Timeout => {
            after_failure(result, permanent, budgets, policy, draw)
        }
    }
}

fn after_loss(budgets: Budgets) -> Decision {
    let budgets = Budgets {
        lost: budgets.lost.saturating_add(1),
        ..budgets
    };
    if budgets.lost > MAX_LOST {
        let verdict = Verdict::Close(FinalState::DeadLettered);
        return Decision {
            verdict,
            reason: Reason::Poison,
            budgets,
        };
    }
    Decision {
        verdict: Verdict::Requeue,
        reason: Reason::WorkerLost,
        budgets,
    }
}

fn after_failure(
    result: AttemptResult,
    permanent: bool,
    budgets: Budgets,
    policy: &RetryPolicy,
    draw: f64,
) -> Decision {
    let budgets = Budgets {
        attempts: budgets.attempts.saturating_add(1),
        ..budgets
    };
    if permanent {
        let verdict = Verdict::Close(FinalState::Failed);
        return Decision {
            verdict,
            reason: Reason::NotRetryable,
            budgets,
        };
    }
    if budgets.attempts >= policy.max_attempts {
        let verdict = Verdict::Close(FinalState::DeadLettered);
        return Decision {
            verdict,
            reason: Reason::AttemptsExhausted,
            budgets,
        };
    }
    let reason = match result {
        AttemptResult::Panic => Reason::Panic,
        AttemptResult::Timeout => Reason::Timeout,
        _ => Reason::HandlerError,
    };
    let verdict = Verdict::RetryAfter(policy.backoff.after(budgets.attempts, draw));
    Decision {
        verdict,
        reason,
        budgets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRESH: Budgets = Budgets {
        attempts: 0,
        lost: 0,
    };

    #[test]
    fn an_execution_that_always_fails_is_dead_lettered_after_max_attempts() {
        let policy = RetryPolicy {
            max_attempts: 3,
            ..RetryPolicy::default()
        };
        let mut budgets = FRESH;
        let mut attempts = 0;
        let last = loop {
            attempts += 1;
            let decision = decide(AttemptResult::Error, false, budgets, &policy, 0.5);
            budgets = decision.budgets;
            if !matches!(decision.verdict, Verdict::RetryAfter(_)) {
                break decision;
            }
        };
        assert_eq!(attempts, 3);
        assert_eq!(last.verdict, Verdict::Close(FinalState::DeadLettered));
        assert_eq!(last.reason, Reason::AttemptsExhausted);
    }

    #[test]
    fn lost_workers_cost_no_attempts_and_the_fourth_makes_it_poison() {
        let policy = RetryPolicy::default();
        let mut budgets = FRESH;
        for _ in 0..3 {
            let decision = decide(AttemptResult::Lost, false, budgets, &policy, 0.5);
            assert_eq!(decision.verdict, Verdict::Requeue);
            budgets = decision.budgets;
        }
        assert_eq!(
            budgets,
            Budgets {
                attempts: 0,
                lost: 3
            }
        );
        let last = decide(AttemptResult::Lost, false, budgets, &policy, 0.5);
        assert_eq!(
            (last.verdict, last.reason),
            (Verdict::Close(FinalState::DeadLettered), Reason::Poison)
        );
    }

    #[test]
    fn a_shutdown_costs_nothing() {
        let budgets = Budgets {
            attempts: 4,
            lost: 3,
        };
        let decision = decide(
            AttemptResult::Returned,
            false,
            budgets,
            &RetryPolicy::default(),
            0.5,
        );
        assert_eq!(
            (decision.verdict, decision.budgets),
            (Verdict::Requeue, budgets)
        );
    }

    #[test]
    fn of_what_was_cancelled_an_end_stands_and_nothing_goes_on() {
        let after = |result, permanent| {
            let policy = RetryPolicy::default();
            decide(result, permanent, FRESH, &policy, 0.5)
                .after_cancel()
                .verdict
        };
        let close = Verdict::Close;
        assert_eq!(
            after(AttemptResult::Success, false),
            close(FinalState::Succeeded)
        );
        assert_eq!(after(AttemptResult::Error, true), close(FinalState::Failed));
        for result in [
            AttemptResult::Error,
            AttemptResult::Cancelled,
            AttemptResult::Lost,
            AttemptResult::Returned,
        ] {
            assert_eq!(after(result, false), close(FinalState::Cancelled));
        }
    }

    #[test]
    fn a_permanent_error_fails_at_once() {
        let decision = decide(
            AttemptResult::Error,
            true,
            FRESH,
            &RetryPolicy::default(),
            0.5,
        );
        assert_eq!(decision.verdict, Verdict::Close(FinalState::Failed));
    }

    proptest! {
        #[test]
        fn no_back_off_exceeds_its_cap(failures in 1u16..=1000, draw in 0.0..1.0f64, jitter: bool) {
            let backoff = Backoff { jitter, ..RetryPolicy::default().backoff };
            let wait = backoff.after(failures, draw);
            prop_assert!(wait <= backoff.max);
            prop_assert!(jitter || failures > 11 || wait == backoff.initial * 2u32.pow(u32::from(failures) - 1));
        }
    }
}
