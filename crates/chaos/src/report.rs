//! The account of a run, for people.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::time::Duration;

use crate::checker::Report;
use crate::clock::Micros;
use crate::history::{Ended, FaultKind, History, How, Said, Step};
use crate::place::Place;
use crate::recovery::recoveries;
use crate::run::Args;

/// No more than so many violations of an invariant are shown.
const SHOWN: usize = 5;

/// All that is to be told.
pub(crate) struct Account<'a> {
    pub(crate) args: &'a Args,
    pub(crate) history: &'a History,
    pub(crate) report: &'a Report,
    pub(crate) took: Duration,
}

impl Account<'_> {
    /// For a terminal.
    pub(crate) fn print(&self) {
        println!("\n{}", self.to_markdown());
    }

    /// As Markdown.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        // Writing into a text can't fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let verdict = match self.report.holds() {
            true => "All promises were kept.",
            false => "PROMISES WERE BROKEN.",
        };
        writeln!(text, "{verdict}\n")?;
        self.write_scale(text)?;
        self.write_faults(text)?;
        self.write_invariants(text)?;
        self.write_recoveries(text)?;
        self.write_violations(text)
    }

    fn write_scale(&self, text: &mut String) -> std::fmt::Result {
        let (args, history) = (self.args, self.history);
        let said = |wanted: fn(&Said) -> bool| {
            let lines = history.client.iter();
            lines.filter(|line| wanted(&line.said)).count()
        };
        let begins = history.calls.iter();
        let begins = begins.filter(|line| line.step == Step::Begin).count();
        let mut results: HashMap<Ended, usize> = HashMap::new();
        for outcome in &history.outcomes {
            *results.entry(outcome.result).or_default() += 1;
        }
        let count = |result| results.get(&result).copied().unwrap_or(0);
        writeln!(
            text,
            "Seed {}; {} gateways, {} schedulers, {} workers; {:.0} s in all, {} s of them under load.\n",
            args.seed,
            args.gateways,
            args.schedulers,
            args.workers,
            self.took.as_secs_f64(),
            args.load.as_secs(),
        )?;
        writeln!(text, "| what | count |\n|---|---:|")?;
        for (what, count) in [
            ("executions", history.executions.len()),
            (
                "acknowledgements",
                said(|it| matches!(it, Said::Told { .. })),
            ),
            (
                "submissions that failed or were in doubt",
                said(|it| matches!(it, Said::Failed { .. })),
            ),
            ("calls of handlers", begins),
            ("attempts that succeeded", count(Ended::Success)),
            ("attempts that failed", count(Ended::Error)),
            ("attempts put off", count(Ended::Snoozed)),
            ("attempts handed back", count(Ended::Returned)),
            ("attempts lost", count(Ended::Lost)),
            (
                "results that came too late and were refused",
                self.refused(),
            ),
            ("chain rows", history.chain.len()),
        ] {
            writeln!(text, "| {what} | {count} |")?;
        }
        let mut calls = self.calls();
        calls.sort_unstable();
        let mean = calls.iter().sum::<Micros>() as f64 / calls.len().max(1) as f64 / 1e3;
        let median = calls.get(calls.len() / 2).copied().unwrap_or(0) as f64 / 1e3;
        writeln!(
            text,
            "\nA call took {mean:.1} ms in the mean, pauses included, and {median:.1} ms in the median.\n"
        )
    }

    /// How long the calls took that came to an end.
    fn calls(&self) -> Vec<Micros> {
        let mut begun: HashMap<(Place, u64), Micros> = HashMap::new();
        let lines = self.history.calls.iter().filter_map(|line| {
            let which = (line.execution, line.fence);
            match line.step {
                Step::Begin => {
                    begun.insert(which, line.at);
                    None
                }
                Step::End { .. } => Some(line.at - begun.remove(&which)?),
            }
        });
        lines.collect()
    }

    /// Handlers that came to their end, of which the tables say otherwise.
    fn refused(&self) -> usize {
        let lost = self.history.outcomes.iter();
        let lost = lost.filter(|it| matches!(it.result, Ended::Lost | Ended::Returned));
        let lost: HashSet<_> = lost.map(|it| (it.execution, it.fence)).collect();
        let ends = self.history.calls.iter().filter(|line| {
            let dropped = Step::End { how: How::Dropped };
            line.step != Step::Begin && line.step != dropped
        });
        ends.filter(|line| lost.contains(&(line.execution, line.fence)))
            .count()
    }

    fn write_faults(&self, text: &mut String) -> std::fmt::Result {
        let mut counts: BTreeMap<(FaultKind, &str), usize> = BTreeMap::new();
        for fault in &self.history.faults {
            // At the end the workers are stopped for good.
            let is_last = fault.kind == FaultKind::Terminate && fault.up.is_none();
            if fault.kind != FaultKind::Start && !is_last {
                let kind = (fault.kind, group_of(&fault.target));
                *counts.entry(kind).or_default() += 1;
            }
        }
        writeln!(text, "| fault | of | count |\n|---|---|---:|")?;
        for ((kind, target), count) in counts {
            writeln!(text, "| {kind} | {target} | {count} |")?;
        }
        writeln!(text)
    }

    fn write_invariants(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "| invariant | examined | explained by a fault | violations |\n|---|---:|---:|---:|"
        )?;
        for finding in &self.report.findings {
            let violations = match (finding.violations.len(), finding.examined) {
                (0, 0) => "none examined".to_owned(),
                (violations, _) => violations.to_string(),
            };
            writeln!(
                text,
                "| {} | {} | {} | {violations} |",
                finding.invariant, finding.examined, finding.explained
            )?;
        }
        writeln!(text)
    }

    fn write_recoveries(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "| from, until | count | median | longest |\n|---|---:|---:|---:|"
        )?;
        for (what, mut durations) in recoveries(self.history) {
            durations.sort_unstable();
            let (median, longest) = (
                durations[durations.len() / 2],
                durations[durations.len() - 1],
            );
            let count = durations.len();
            writeln!(
                text,
                "| {what} | {count} | {} | {} |",
                seconds(median),
                seconds(longest)
            )?;
        }
        writeln!(text)
    }

    fn write_violations(&self, text: &mut String) -> std::fmt::Result {
        for finding in &self.report.findings {
            for violation in finding.violations.iter().take(SHOWN) {
                writeln!(
                    text,
                    "VIOLATED: {}: {} {}",
                    finding.invariant, violation.subject, violation.what
                )?;
                for line in &violation.proof {
                    writeln!(text, "    {line}")?;
                }
            }
        }
        Ok(())
    }
}

/// Processes of one service are one, and so are ways to schedulers and to the database.
fn group_of(target: &str) -> &str {
    match target {
        _ if target.starts_with("to ") => "way to a scheduler",
        _ if target.ends_with(" to database") => "way to the database",
        _ => target.trim_end_matches(|last: char| last.is_ascii_digit() || last == '-'),
    }
}

fn seconds(span: Micros) -> String {
    format!("{:.3} s", span as f64 / 1e6)
}
