//! What can be said of retries, and of what is over.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use proto::v1::BackoffGrowth;

use super::{ListArgs, parse_duration, parse_timeout};

/// The retry policy of a submission. What isn't said is the API's default.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Retries")]
pub(crate) struct RetryArgs {
    /// Attempts in all, the first one included.
    #[arg(long, value_name = "N")]
    pub(crate) max_attempts: Option<u32>,

    /// Lost workers that it survives: with the next one it is a dead letter.
    #[arg(long, value_name = "N")]
    pub(crate) max_lost: Option<u32>,

    /// How the waits between attempts grow.
    #[arg(long, value_enum, value_name = "GROWTH")]
    pub(crate) backoff: Option<Growth>,

    /// The wait after the first failed attempt, with a unit: `2s`.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(crate) initial_backoff: Option<Duration>,

    /// What an exponential wait is multiplied by from failure to failure: 1 to 100.
    #[arg(long, value_name = "N")]
    pub(crate) multiplier: Option<f64>,

    /// Wait just as long as that. Otherwise each wait is drawn evenly between nothing and so long.
    #[arg(long)]
    pub(crate) no_jitter: bool,

    /// No wait is longer.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(crate) max_backoff: Option<Duration>,

    /// How long all of it may take from when it is due: attempts, the waits between them, and those for slots.
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout, allow_hyphen_values = true)]
    pub(crate) total_timeout: Option<Duration>,
}

/// How waits grow from failure to failure.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// Doubled each time, or as --multiplier says.
    Exponential,
    /// By the first one, each time.
    Linear,
    /// Not at all.
    Fixed,
}

impl From<Growth> for BackoffGrowth {
    fn from(growth: Growth) -> Self {
        match growth {
            Growth::Exponential => Self::Exponential,
            Growth::Linear => Self::Linear,
            Growth::Fixed => Self::Fixed,
        }
    }
}

/// Arguments of `retry`.
#[derive(Args, Debug)]
pub(crate) struct RetryIdsArgs {
    /// The executions' ids.
    #[arg(value_name = "ID", required = true, num_args = 1..=domain::limits::MAX_WATCHED)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) ids: Vec<String>,
}

/// What can be done with dead letters.
#[derive(Subcommand, Debug)]
pub(crate) enum DlqVerb {
    /// List the dead letters that nobody has discarded, the latest first.
    List(DeadLettersArgs),
    /// Have dead letters run again, all their budgets anew.
    Redrive(PickArgs),
    /// Take dead letters out of the queue: they stay as they are, and nobody need look at them.
    Discard(PickArgs),
}

/// Arguments of `dlq list`.
#[derive(Args, Debug)]
pub(crate) struct DeadLettersArgs {
    /// Only this queue's.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) queue: Option<String>,

    /// Only this type's.
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) job_type: Option<String>,

    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = domain::limits::DEFAULT_PAGE)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,

    /// All there are.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,

    /// Show it again every 2 seconds, until Ctrl-C.
    #[arg(long, conflicts_with = "all")]
    pub(crate) watch: bool,
}

impl From<DeadLettersArgs> for ListArgs {
    fn from(args: DeadLettersArgs) -> Self {
        Self {
            queue: args.queue,
            states: vec![super::State::DeadLettered],
            job_type: args.job_type,
            limit: args.limit,
            all: args.all,
            watch: args.watch,
            without_discarded: true,
        }
    }
}

/// Which dead letters are meant: some by their ids, or all of a queue or a type.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["ids", "queue", "job_type", "all"]))]
pub(crate) struct PickArgs {
    /// The executions' ids.
    #[arg(value_name = "ID", conflicts_with_all = ["queue", "job_type", "all"])]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) ids: Vec<String>,

    /// All of this queue.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) queue: Option<String>,

    /// All of this type.
    #[arg(long = "type", value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) job_type: Option<String>,

    /// All there are.
    #[arg(long)]
    pub(crate) all: bool,

    /// At most so many, the latest first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(conflicts_with = "ids")]
    pub(crate) limit: Option<u32>,
}
