//! What an attempt's end means for its execution: the state machine's one branching point.

use std::time::Duration;

use crate::limits::MAX_BACKOFF;
use crate::{AttemptResult, Budgets, FinalState, Reason};

/// How waits grow from failure to failure. The numbers are stored and are proto's: never renamed, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Growth {
    /// By the multiplier, each time.
    #[default]
    Exponential = 1,
    /// By the first wait, each time.
    Linear = 2,
    /// Not at all.
    Fixed = 3,
}

impl Growth {
    /// The growth of a stored or proto number; 0 is exponential.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            0 | 1 => Some(Self::Exponential),
            2 => Some(Self::Linear),
            3 => Some(Self::Fixed),
            _ => None,
        }
    }
}

/// When a failed attempt is tried again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Backoff {
    /// How the waits grow.
    pub growth: Growth,
    /// After the first failure.
    pub initial: Duration,
    /// What an exponential one is multiplied by after each further failure.
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
        let growth = match self.growth {
            Growth::Exponential => self.multiplier.powi(i32::from(failures.saturating_sub(1))),
            Growth::Linear => f64::from(failures),
            Growth::Fixed => 1.0,
        };
        let seconds = self.initial.as_secs_f64() * growth;
        let capped = seconds.min(self.max.as_secs_f64());
        Duration::from_secs_f64(if self.jitter { capped * draw } else { capped })
    }
}

/// How often, and how, failures are retried.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    /// Attempts in all: 1 to 1000.
    pub max_attempts: u16,
    /// Lost workers that it survives: the next one makes it poison. 0 to 100.
    pub max_lost: u16,
    /// The waits between them.
    pub backoff: Backoff,
    /// How long all of it may take, from when it is due: attempts, the waits between them, and those for slots.
    pub total: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let backoff = Backoff {
            growth: Growth::Exponential,
            initial: Duration::from_secs(2),
            multiplier: 2.0,
            max: Duration::from_secs(3_600),
            jitter: true,
        };
        Self {
            max_attempts: 5,
            max_lost: 3,
            backoff,
            total: None,
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
    /// The decision where only so much of the total time is left: what would go on after that is over.
    fn within(self, left: Duration) -> Self {
        let goes_on_after = match self.verdict {
            Verdict::Close(_) => return self,
            Verdict::RetryAfter(wait) => wait,
            Verdict::Requeue => Duration::ZERO,
        };
        if goes_on_after < left {
            return self;
        }
        Self {
            verdict: Verdict::Close(FinalState::Failed),
            reason: Reason::TotalTimeout,
            ..self
        }
    }

    /// The decision for an execution that somebody cancelled while the attempt ran: an end for good
    /// stands, whatever would go on, were there time, is over.
    #[must_use]
    pub fn after_cancel(self) -> Self {
        match self.verdict {
            Verdict::Close(_) if self.reason != Reason::TotalTimeout => self,
            _ => Self {
                verdict: Verdict::Close(FinalState::Cancelled),
                reason: Reason::Cancelled,
                ..self
            },
        }
    }
}

/// How an attempt ended, as far as it matters for what follows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attempted {
    /// How it ended.
    pub result: AttemptResult,
    /// The handler says that trying again is useless.
    pub permanent: bool,
    /// The handler asks for no other try before that: for a snooze the wait itself, for an error the least.
    pub put_off: Option<Duration>,
    /// What is left of the execution's total time; `None`: it has no end.
    pub left: Option<Duration>,
}

impl From<AttemptResult> for Attempted {
    /// Nothing is put off, and the execution's total time has no end.
    fn from(result: AttemptResult) -> Self {
        Self {
            result,
            permanent: false,
            put_off: None,
            left: None,
        }
    }
}

/// Decides what an attempt's end means for an execution that has used `budgets` before it; `draw` is a random
/// number of [0, 1).
///
/// Three budgets stay apart: a handler's failures count against `max_attempts`, lost workers against `max_lost`,
/// and a worker's shutdown and a handler's snooze cost neither. What can't go on within its total time is over.
#[must_use]
pub fn decide(attempted: Attempted, budgets: Budgets, policy: &RetryPolicy, draw: f64) -> Decision {
    let decision = match attempted.result {
        AttemptResult::Success => Decision {
            verdict: Verdict::Close(FinalState::Succeeded),
            reason: Reason::None,
            budgets: budgets.with_attempt(),
        },
        // A worker that stops what nobody cancelled has handed it back.
        AttemptResult::Returned | AttemptResult::Cancelled => Decision {
            verdict: Verdict::Requeue,
            reason: Reason::Returned,
            budgets,
        },
        AttemptResult::Snoozed => Decision {
            verdict: Verdict::RetryAfter(attempted.put_off.unwrap_or_default().min(MAX_BACKOFF)),
            reason: Reason::Snoozed,
            budgets,
        },
        AttemptResult::Lost => after_loss(budgets, policy),
        AttemptResult::Error | AttemptResult::Panic | AttemptResult::Timeout => {
            after_failure(attempted, budgets, policy, draw)
        }
    };
    match attempted.left {
        Some(left) => decision.within(left),
        None => decision,
    }
}

fn after_loss(budgets: Budgets, policy: &RetryPolicy) -> Decision {
    let budgets = Budgets {
        lost: budgets.lost.saturating_add(1),
        ..budgets
    };
    let (verdict, reason) = match budgets.lost > policy.max_lost {
        true => (Verdict::Close(FinalState::DeadLettered), Reason::Poison),
        false => (Verdict::Requeue, Reason::WorkerLost),
    };
    Decision {
        verdict,
        reason,
        budgets,
    }
}

fn after_failure(
    attempted: Attempted,
    budgets: Budgets,
    policy: &RetryPolicy,
    draw: f64,
) -> Decision {
    let budgets = budgets.with_attempt();
    let (verdict, reason) = if attempted.permanent {
        (Verdict::Close(FinalState::Failed), Reason::NotRetryable)
    } else if budgets.attempts >= policy.max_attempts {
        let dead = Verdict::Close(FinalState::DeadLettered);
        (dead, Reason::AttemptsExhausted)
    } else {
        let asked = attempted.put_off.unwrap_or_default().min(MAX_BACKOFF);
        let wait = policy.backoff.after(budgets.attempts, draw).max(asked);
        let reason = match attempted.result {
            AttemptResult::Panic => Reason::Panic,
            AttemptResult::Timeout => Reason::Timeout,
            _ => Reason::HandlerError,
        };
        (Verdict::RetryAfter(wait), reason)
    };
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
            let decision = decide(Attempted::from(AttemptResult::Error), budgets, &policy, 0.5);
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
            let decision = decide(Attempted::from(AttemptResult::Lost), budgets, &policy, 0.5);
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
        let last = decide(Attempted::from(AttemptResult::Lost), budgets, &policy, 0.5);
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
        let policy = RetryPolicy::default();
        let decision = decide(
            Attempted::from(AttemptResult::Returned),
            budgets,
            &policy,
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
            let attempted = Attempted {
                permanent,
                ..Attempted::from(result)
            };
            decide(attempted, FRESH, &RetryPolicy::default(), 0.5)
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
        let attempted = Attempted {
            permanent: true,
            ..Attempted::from(AttemptResult::Error)
        };
        let decision = decide(attempted, FRESH, &RetryPolicy::default(), 0.5);
        assert_eq!(decision.verdict, Verdict::Close(FinalState::Failed));
    }

    #[test]
    fn waits_grow_as_the_policy_says_and_no_further_than_its_cap() {
        let waits = |growth| {
            let backoff = Backoff {
                growth,
                max: Duration::from_secs(9),
                jitter: false,
                ..RetryPolicy::default().backoff
            };
            [1, 2, 3, 4, u16::MAX].map(|failures| backoff.after(failures, 0.5).as_secs())
        };
        assert_eq!(waits(Growth::Exponential), [2, 4, 8, 9, 9]);
        assert_eq!(waits(Growth::Linear), [2, 4, 6, 8, 9]);
        assert_eq!(waits(Growth::Fixed), [2, 2, 2, 2, 2]);
    }

    #[test]
    fn a_snooze_costs_nothing_and_lasts_as_long_as_asked_within_a_day() {
        let budgets = Budgets {
            attempts: 4,
            lost: 3,
        };
        let snooze = |asked| {
            let attempted = Attempted {
                put_off: Some(asked),
                ..Attempted::from(AttemptResult::Snoozed)
            };
            let decision = decide(attempted, budgets, &RetryPolicy::default(), 0.5);
            assert_eq!(
                (decision.budgets, decision.reason),
                (budgets, Reason::Snoozed)
            );
            decision.verdict
        };
        let minute = Duration::from_secs(60);
        assert_eq!(snooze(minute), Verdict::RetryAfter(minute));
        assert_eq!(snooze(Duration::MAX), Verdict::RetryAfter(MAX_BACKOFF));
    }

    #[test]
    fn an_error_is_tried_again_no_sooner_than_its_handler_asks() {
        let wait = |asked| {
            let attempted = Attempted {
                put_off: Some(Duration::from_secs(asked)),
                ..Attempted::from(AttemptResult::Error)
            };
            let policy = RetryPolicy::default();
            decide(attempted, FRESH, &policy, 0.5).verdict
        };
        assert_eq!(wait(0), Verdict::RetryAfter(Duration::from_secs(1)));
        assert_eq!(wait(30), Verdict::RetryAfter(Duration::from_secs(30)));
    }

    #[test]
    fn what_cannot_go_on_within_its_total_time_has_failed() {
        let after = |result, left| {
            let attempted = Attempted {
                put_off: Some(Duration::from_secs(10)),
                left: Some(Duration::from_secs(left)),
                ..Attempted::from(result)
            };
            let decision = decide(attempted, FRESH, &RetryPolicy::default(), 0.5);
            (decision.verdict, decision.reason)
        };
        let over = (Verdict::Close(FinalState::Failed), Reason::TotalTimeout);
        for result in [AttemptResult::Error, AttemptResult::Snoozed] {
            assert_eq!(after(result, 10), over);
            assert!(matches!(after(result, 11).0, Verdict::RetryAfter(_)));
        }
        for result in [AttemptResult::Lost, AttemptResult::Returned] {
            assert_eq!(after(result, 0), over);
            assert_eq!(after(result, 1).0, Verdict::Requeue);
        }
        let done = Verdict::Close(FinalState::Succeeded);
        assert_eq!(after(AttemptResult::Success, 0).0, done);
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
