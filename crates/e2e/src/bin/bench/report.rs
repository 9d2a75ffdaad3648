//! What is told, in Markdown.

use std::fmt;

use crate::args::Args;
use crate::bed::{QUEUES, TENANTS};
use crate::figure::{Figure, Findings, median};
use crate::processes::{Cost, Memory, Role};

/// All that there is to tell.
pub(crate) struct Report<'a> {
    pub(crate) args: &'a Args,
    pub(crate) facts: Vec<String>,
    pub(crate) findings: Findings,
    pub(crate) memory: Memory,
    pub(crate) turned_away: u64,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.raw(f)?;
        self.figures(f)?;
        self.costs(f)?;
        self.memory(f)
    }
}

impl Report<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (args, extent) = (self.args, self.args.extent());
        writeln!(f, "# Bench\n")?;
        for fact in &self.facts {
            writeln!(f, "- {fact}")?;
        }
        writeln!(
            f,
            "- 1 gateway, {} schedulers, 2 workers with {} slots each; {} lanes; {TENANTS} tenants × \
             {QUEUES} queues, 4 priorities, 100 bytes of payload, 3 headers; list indexes on; traces \
             of 1 % kept, log and metrics on",
            args.schedulers, args.slots, args.lanes
        )?;
        writeln!(
            f,
            "- no idempotency keys yet, since Watchwork has none yet; {} waiting when a drain begins",
            extent.executions
        )?;
        writeln!(
            f,
            "- the load generator and PostgreSQL share the machine; {} round(s), medians, in brackets \
             the lowest and the highest; {} calls were turned away and made again",
            extent.rounds, self.turned_away
        )
    }

    fn raw(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = self
            .findings
            .values()
            .filter(|(figure, _)| figure.is_raw())
            .peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        writeln!(
            f,
            "\n## Plain SQL, in the same run\n\n| | jobs/s |\n|---|---|"
        )?;
        for (figure, values) in rows {
            writeln!(f, "| {} | {} |", figure.name(), spread(figure, values))?;
        }
        Ok(())
    }

    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n## Watchwork\n\n| | | of the raw limit |\n|---|---|---|"
        )?;
        for (figure, values) in self
            .findings
            .values()
            .filter(|(figure, _)| !figure.is_raw())
        {
            let shares = self.shares(figure);
            writeln!(
                f,
                "| {} | {} | {shares} |",
                figure.name(),
                spread(figure, values)
            )?;
        }
        Ok(())
    }

    fn shares(&self, figure: Figure) -> String {
        let Some(rate) = self.findings.median(figure) else {
            return String::new();
        };
        let share = |limit: &Figure| {
            let raw = self.findings.median(*limit)?;
            Some(format!("{:.0} % of {}", 100.0 * rate / raw, limit.name()))
        };
        figure
            .limits()
            .iter()
            .filter_map(share)
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Processor time for each job, µs\n")?;
        let roles: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
        writeln!(
            f,
            "| | {} | sum | processors busy | by others |",
            roles.join(" | ")
        )?;
        writeln!(f, "|---|{}---|---|---|", "---|".repeat(roles.len()))?;
        for (figure, costs) in self.findings.costs() {
            let middle = |value: &dyn Fn(&Cost) -> f64| median(costs.iter().map(value));
            let each: Vec<f64> = (0..roles.len())
                .map(|place| middle(&|cost| cost.each_us[place]))
                .collect();
            let cells: Vec<_> = each.iter().map(|us| format!("{us:.1}")).collect();
            let (busy, others) = (middle(&|cost| cost.busy), middle(&|cost| cost.others));
            writeln!(
                f,
                "| {} | {} | {:.1} | {busy:.2} | {others:.2} |",
                figure.name(),
                cells.join(" | "),
                each.iter().sum::<f64>()
            )?;
        }
        Ok(())
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Memory at its highest, MiB\n\n| | |\n|---|---|")?;
        for role in Role::ALL {
            writeln!(f, "| {} | {:.0} |", role.name(), self.memory[role as usize])?;
        }
        Ok(())
    }
}

/// The median with its neighbours.
fn spread(figure: Figure, values: &[f64]) -> String {
    let number = |value: f64| {
        if figure.is_time() {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        }
    };
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(0.0, f64::max);
    let middle = number(median(values.iter().copied()));
    format!("**{middle}** ({}–{})", number(lowest), number(highest))
}
