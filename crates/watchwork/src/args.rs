//! Everything that can be said on the command line.

mod listing;
mod retrying;
mod workers;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use prost_types::Timestamp;
use proto::v1::Priority;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(crate) use listing::{ListArgs, State};
pub(crate) use retrying::{DlqVerb, PickArgs, RetryArgs, RetryIdsArgs};
pub(crate) use workers::{DrainArgs, WorkerVerb};

/// Hand work to Watchwork, and watch it work.
///
/// Exit codes: 0 it worked; 1 it failed; 2 wrong usage; 3 not found; 4 unavailable just now; 5 the
/// execution that was waited for ended badly.
#[derive(Parser, Debug)]
#[command(name = "watchwork", version)]
pub struct Cli {
    /// Where the installation is.
    #[command(flatten)]
    pub(crate) place: Place,

    /// How answers are written: for people or for programs.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,

    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Where the installation is. What isn't given is taken from the nearest `.watchwork/dev.json`, in this
/// directory or above it.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Place {
    /// The API, http://host:port.
    #[arg(long, global = true, env = "WATCHWORK_ADDRESS", value_name = "URL")]
    pub(crate) address: Option<String>,

    /// The API key, wk_…
    #[arg(long, global = true, env = "WATCHWORK_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,

    /// Where traces are looked up: the base URL of a Jaeger query API.
    #[arg(long, global = true, env = "WATCHWORK_TRACES", value_name = "URL")]
    pub(crate) traces: Option<String>,
}

/// How answers are written.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON value a line.
    Json,
    /// Aligned columns.
    Table,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Run everything on this machine, with a private PostgreSQL, until Ctrl-C.
    Dev(DevArgs),
    /// Hand in one execution, and print its id.
    Submit(Box<SubmitArgs>),
    /// Show one execution with its attempts.
    Get(IdArgs),
    /// List executions, the newest first.
    List(ListArgs),
    /// Cancel executions that are not over.
    Cancel(CancelArgs),
    /// Have executions run again that failed, are dead letters or were cancelled.
    Retry(RetryIdsArgs),
    /// See to the dead letter queue.
    #[command(subcommand)]
    Dlq(DlqVerb),
    /// See to the workers.
    #[command(subcommand)]
    Worker(WorkerVerb),
    /// Print every change of executions until all are final.
    Watch(WatchArgs),
    /// Draw an execution's trace over all services.
    Trace(IdArgs),
}

/// Arguments of `dev`.
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    /// How many schedulers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) schedulers: u16,

    /// How many workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) workers: u16,

    /// A database to use; without it a private PostgreSQL is started.
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,

    /// Where data, logs and addresses are kept.
    #[arg(long, default_value = ".watchwork")]
    pub(crate) dir: PathBuf,
}

/// Arguments of `submit`.
#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    /// Which handler runs it, for example `sleep`.
    #[arg(value_name = "TYPE")]
    pub(crate) job_type: String,

    /// The queue it waits in.
    #[arg(long, default_value = "default", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) queue: String,

    /// How urgent it is.
    #[arg(long, value_enum, default_value_t = Urgency::Normal)]
    pub(crate) priority: Urgency,

    /// What the handler gets: JSON, `@file`, or `-` for standard input.
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) payload: Option<String>,

    /// The payload's media type; without it that of JSON, or of bytes where it isn't JSON.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,

    /// A label: a name and a value that people know it by; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) labels: Vec<(String, String)>,

    /// A header for the handler; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) headers: Vec<(String, String)>,

    /// An id of yours that goes along everywhere.
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<String>,

    /// How long one attempt may run, with a unit: `30s`, `5m`.
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout, allow_hyphen_values = true)]
    pub(crate) timeout: Option<Duration>,

    /// Makes it safe to submit again: within 24 hours the same key gives the same execution. What is
    /// to be done must be the same too, so a time goes with --at then, not with --in.
    #[arg(long, value_name = "KEY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) idempotency_key: Option<String>,

    /// When it is due, as RFC 3339: `2026-09-21T14:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "delay")]
    pub(crate) at: Option<Timestamp>,

    /// How long from now it is due, with a unit: `90s`, `2h 30m`.
    #[arg(long = "in", value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    pub(crate) delay: Option<Duration>,

    /// Wait until it is final, then show it.
    #[arg(long)]
    pub(crate) wait: bool,

    /// How failures are retried.
    #[command(flatten)]
    pub(crate) retries: RetryArgs,
}

/// One execution.
#[derive(Args, Debug)]
pub(crate) struct IdArgs {
    /// The execution's id.
    #[arg(value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) id: String,
}

/// One or more executions.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// The executions' ids.
    #[arg(value_name = "ID", required = true, num_args = 1..=domain::limits::MAX_WATCHED)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) ids: Vec<String>,
}

/// Arguments of `cancel`.
#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// The executions' ids.
    #[arg(value_name = "ID", required = true, num_args = 1..=domain::limits::MAX_WATCHED)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) ids: Vec<String>,

    /// Wait until those that were running are final too.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// How urgent an execution is.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// 8 of 15 slots while all four have work waiting; first in a strict queue.
    Critical,
    /// 4 of 15.
    High,
    /// 2 of 15.
    Normal,
    /// 1 of 15.
    Low,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Critical => Self::Critical,
            Urgency::High => Self::High,
            Urgency::Normal => Self::Normal,
            Urgency::Low => Self::Low,
        }
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    match text.starts_with('-') {
        true => Err("it can't be negative".to_owned()),
        false => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => {
            Err("it must be more than nothing; leave it out for the default".to_owned())
        }
        timeout => Ok(timeout),
    }
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| format!("expected a time such as 2026-09-21T14:00:00Z: {error}"))?;
    Ok(Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn labels_are_pairs_and_timeouts_have_units() {
        let parse =
            |args: &[&str]| Cli::try_parse_from(["watchwork", "submit", "t"].iter().chain(args));
        assert!(parse(&["--label", "a=b=c", "--timeout", "1m"]).is_ok());
        let wrong = [
            ["--label", "a"],
            ["--label", "=b"],
            ["--timeout", "10"],
            ["--in", "10"],
            ["--in", "-5s"],
            ["--timeout", "0s"],
            ["--queue", ""],
            ["--total-timeout", "0s"],
            ["--backoff", "sometimes"],
            ["--at", "2026-09-21"],
        ];
        for wrong in wrong {
            assert_eq!(parse(&wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn a_time_is_told_in_any_zone_and_only_once() {
        let time = parse_time("2026-09-21T16:13:20.5+02:00").unwrap();
        assert_eq!((time.seconds, time.nanos), (1_790_000_000, 500_000_000));
        let before_1970 = parse_time("1969-12-31T23:59:59.5Z").unwrap();
        assert_eq!(
            (before_1970.seconds, before_1970.nanos),
            (-1, 500_000_000),
            "as protobuf counts"
        );
        let both = "watchwork submit t --at 2026-09-21T14:13:20Z --in 5m".split(' ');
        assert_eq!(Cli::try_parse_from(both).unwrap_err().exit_code(), 2);
    }
}
