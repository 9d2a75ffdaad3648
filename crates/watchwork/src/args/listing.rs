//! What can be said of a list.

use clap::{Args, ValueEnum};
use proto::v1::ExecutionState;

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only this queue's.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) queue: Option<String>,

    /// Only those in this state; may be repeated.
    #[arg(long = "state", value_enum, ignore_case = true, value_name = "STATE")]
    pub(crate) states: Vec<State>,

    /// Only this type's.
    #[arg(long = "type", value_name = "TYPE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
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

    /// Without dead letters that somebody discarded.
    #[arg(long)]
    pub(crate) without_discarded: bool,
}

/// Where an execution stands.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum State {
    /// Its time has not come.
    Scheduled,
    /// It waits for a free slot.
    Queued,
    /// A worker has it.
    Running,
    /// It waits for its next attempt.
    Retrying,
    /// It is done.
    Succeeded,
    /// Its handler said that trying again is useless.
    Failed,
    /// A budget is spent.
    DeadLettered,
    /// Somebody cancelled it.
    Cancelled,
}

impl From<State> for ExecutionState {
    fn from(state: State) -> Self {
        match state {
            State::Scheduled => Self::Scheduled,
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Retrying => Self::Retrying,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::DeadLettered => Self::DeadLettered,
            State::Cancelled => Self::Cancelled,
        }
    }
}
