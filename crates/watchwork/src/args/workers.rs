//! What can be said of workers.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::parse_duration;

/// What can be done with workers.
#[derive(Subcommand, Debug)]
pub(crate) enum WorkerVerb {
    /// List the workers that are connected, or whose lease still runs.
    List,
    /// Have a worker leave: it takes nothing new, finishes what it can, and hands back the rest.
    Drain(DrainArgs),
}

/// Arguments of `worker drain`.
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// The worker's name.
    #[arg(value_name = "WORKER", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) worker_id: String,

    /// How long what runs may go on, with a unit: `30s`. Default: the worker's SHUTDOWN_GRACE.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(crate) grace: Option<Duration>,

    /// Wait until it has left.
    #[arg(long)]
    pub(crate) wait: bool,
}
