//! What can be asked for.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures Watchwork on this machine, in turn with plain SQL on the same PostgreSQL.
#[derive(Parser, Debug)]
pub(crate) struct Args {
    /// Only these parts, with commas; all if none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// One short round: shows that it works, and little more.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Nothing but half the highest rate for so many minutes, and whether anybody's memory grows.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["only", "quick"])]
    pub(crate) steady: Option<u64>,
    /// How many rounds; a figure is their median.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// How many executions wait when a drain begins.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) executions: u64,
    /// How many schedulers.
    #[arg(long, default_value_t = 2)]
    pub(crate) schedulers: usize,
    /// How many lanes.
    #[arg(long, default_value_t = 64)]
    pub(crate) lanes: u16,
    /// How many attempts each of the two workers runs at a time.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) slots: u32,
}

/// A part of a round.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Plain SQL.
    Limits,
    /// Submitting 500 a call, four callers, no workers.
    Batch,
    /// Submitting one a call, 32 callers, no workers.
    Single,
    /// What waits is run.
    Drain,
    /// Submitting and running at once.
    Sustained,
    /// From the call to the handler, at 100 a second.
    Latency,
}

/// How long and how much, as the arguments have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) executions: u64,
    /// Of each raw limit.
    pub(crate) limit: Duration,
    /// Of single submissions.
    pub(crate) single: Duration,
    /// Of submitting and running at once.
    pub(crate) sustained: Duration,
    /// How many calls are timed.
    pub(crate) calls: usize,
}

impl Args {
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    pub(crate) fn extent(&self) -> Extent {
        let seconds = Duration::from_secs;
        if self.quick {
            return Extent {
                rounds: 1,
                executions: self.executions.min(40_000),
                limit: seconds(1),
                single: seconds(1),
                sustained: seconds(3),
                calls: 200,
            };
        }
        Extent {
            rounds: self.rounds.max(1),
            executions: self.executions,
            limit: seconds(4),
            single: seconds(4),
            sustained: seconds(10),
            calls: 1_000,
        }
    }
}
