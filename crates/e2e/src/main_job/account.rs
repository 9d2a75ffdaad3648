//! The account of a run, for people.

use std::time::Duration;

use proto::v1::{Attempt, AttemptResult};

use super::course::Course;
use super::findings::{Finding, Outcomes, outcomes};
use super::percentiles::Percentiles;
use crate::{Seen, Tracker};

/// Columns of numbers, and how wide they are.
const NUMBER: usize = 14;
pub(super) const LABEL: usize = 38;

/// How the executions ended, by kind.
pub(super) fn print_outcomes(findings: &[Finding<'_>]) {
    println!("\nOutcomes");
    let names = [
        "executions",
        "succeeded",
        "retried",
        "taken back",
        "failed",
        "dead-lettered",
    ];
    row("", names.map(str::to_owned));
    let outcomes = outcomes(findings);
    for (kind, outcomes) in &outcomes {
        row(kind.label(), numbers(*outcomes));
    }
    let all = outcomes
        .into_values()
        .fold(Outcomes::default(), Outcomes::plus);
    row("all", numbers(all));
}

/// What happened at the kills.
pub(super) fn print_kills(course: &Course) {
    let (worker, taken_back) = &course.worker;
    let (scheduler, taken_over) = &course.scheduler;
    let since = |at| seconds(std::time::Instant::duration_since(&at, course.begin));
    println!("\nKilled (kill -9)");
    println!(
        "  {:<13} after {:>6}, while it held {} executions: all taken back {} later",
        worker.instance,
        since(worker.at),
        worker.running.len(),
        seconds(*taken_back),
    );
    println!(
        "  {:<13} after {:>6}, while {} ran and {} waited in its {} of {} lanes: \
         all lanes taken over {} later",
        scheduler.instance,
        since(scheduler.at),
        scheduler.running,
        scheduler.waiting,
        scheduler.lanes.len(),
        scheduler.of_lanes,
        seconds(*taken_over),
    );
    let refused: u32 = course.handed_in.iter().map(|one| one.refused).sum();
    println!("  {refused} times a submission was refused as unavailable and handed in again");
}

/// Throughput and latencies.
pub(super) fn print_speed(course: &Course, tracker: &Tracker, findings: &[Finding<'_>]) {
    let seen = tracker.seen();
    let end = seen.values().filter_map(|seen| seen.ended).max();
    let took = end.map_or(Duration::ZERO, |end| end - course.begin);
    let rate = findings.len() as f64 / took.as_secs_f64().max(f64::EPSILON);
    println!(
        "\nSpeed: {} executions in {}, {rate:.0}/s with the sleeps, two kills and their leases\n\
         (`make bench` measures what it can do)",
        findings.len(),
        seconds(took),
    );
    row("", ["p50", "p95", "p99"].map(str::to_owned));
    let latency = |seen: &Seen| Some(seen.ended? - seen.handed_in);
    percentiles_row("submitted to done", seen.values().filter_map(latency));
    let calm = findings.iter().filter(|finding| finding.attempts() == 1);
    let calm = calm.filter_map(|finding| seen.get(&finding.execution.execution_id));
    percentiles_row(
        "  of those done at the first attempt",
        calm.filter_map(latency),
    );
    let phases: [(&str, Phase); 4] = [
        ("an attempt: queued", |attempt| attempt.queued),
        ("  dispatched to begun", |attempt| attempt.dispatching),
        ("  running", |attempt| attempt.running),
        ("  done to recorded", |attempt| attempt.reporting),
    ];
    for (name, phase) in phases {
        let attempts = findings
            .iter()
            .flat_map(|finding| &finding.execution.attempts);
        let told = attempts.filter(|attempt| attempt.result() != AttemptResult::Lost);
        let durations = told.filter_map(|attempt| Duration::try_from(phase(attempt)?).ok());
        percentiles_row(name, durations);
    }
}

type Phase = fn(&Attempt) -> Option<prost_types::Duration>;

fn percentiles_row(name: &str, durations: impl Iterator<Item = Duration>) {
    let percentiles = Percentiles::of(durations);
    row(
        name,
        [percentiles.p50, percentiles.p95, percentiles.p99].map(milliseconds),
    );
}

fn numbers(outcomes: Outcomes) -> [String; 6] {
    let Outcomes {
        all,
        succeeded,
        retried,
        taken_back,
        failed,
        dead_lettered,
    } = outcomes;
    [all, succeeded, retried, taken_back, failed, dead_lettered].map(|number| match number {
        0 => "-".to_owned(),
        number => number.to_string(),
    })
}

fn row<const N: usize>(label: &str, cells: [String; N]) {
    let cells: String = cells
        .iter()
        .map(|cell| format!("{cell:>NUMBER$}"))
        .collect();
    println!("  {label:<LABEL$}{cells}");
}

/// For example `12.3 s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
