//! The whole of it: rounds, in each of which the parts and the raw limits take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::args::{Args, Part};
use crate::bed::Bed;
use crate::caller::Callers;
use crate::figure::Findings;
use crate::processes::{Memory, Role};
use crate::report::Report;
use crate::{backlog, latency, limits, machine, steady, sustained};

/// Measures what is asked for, prints the report and keeps it.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let dir = folder()?;
    fs::create_dir_all(&dir)?;
    eprintln!("bench: bringing everything up …");
    let load_before = machine::load();
    let mut bed = Bed::make(&dir.join("bed"), args).await?;
    let callers = Callers::new(&bed.cluster)?;
    let mut facts = machine::facts(&bed.limits_url).await?;
    if let Some(minutes) = args.steady {
        let duration = Duration::from_secs(60 * minutes);
        let steady = steady::measure(&mut bed, &callers, duration).await?;
        bed.clear().await?;
        return keep(&dir, &format!("- {}\n\n{steady}", facts.join("\n- ")));
    }
    let (mut findings, mut memory) = (Findings::default(), Memory::default());
    for round in 1..=args.extent().rounds {
        eprintln!("bench: round {round} …");
        one_round(&mut bed, &callers, args, &mut findings).await?;
        let now = bed.memory()?;
        for role in Role::ALL {
            memory[role as usize] = memory[role as usize].max(now[role as usize]);
        }
    }
    bed.clear().await?;
    let load = machine::load();
    facts.push(format!(
        "load average {load_before} before, {load} at the end"
    ));
    let report = Report {
        args,
        facts,
        findings,
        memory,
        turned_away: callers.turned_away(),
    };
    keep(&dir, &report.to_string())
}

fn keep(dir: &Path, text: &str) -> Result<()> {
    println!("{text}");
    let path = dir.join(format!("{}.md", now_in_a_name()?));
    fs::write(&path, text)?;
    eprintln!("bench: kept in {}", path.display());
    Ok(())
}

async fn one_round(
    bed: &mut Bed,
    callers: &Callers,
    args: &Args,
    findings: &mut Findings,
) -> Result<()> {
    let extent = args.extent();
    if args.wants(Part::Limits) {
        bed.checkpoint().await?;
        let dir = bed.cluster.dir().to_owned();
        limits::measure(bed, &dir, extent.limit, findings).await?;
    }
    bed.checkpoint().await?;
    if [Part::Batch, Part::Single, Part::Drain]
        .into_iter()
        .any(|part| args.wants(part))
    {
        backlog::measure(bed, callers, args, findings)
            .await
            .context("the backlog")?;
    }
    if args.wants(Part::Sustained) {
        let part = sustained::measure(bed, callers, extent.sustained, findings);
        part.await.context("submitting and running at once")?;
    }
    if args.wants(Part::Latency) {
        let part = latency::measure(bed, callers, extent.calls, findings);
        part.await.context("the latency")?;
    }
    Ok(())
}

/// `target/bench`, seen from `target/<profile>/bench`.
fn folder() -> Result<PathBuf> {
    let us = std::env::current_exe()?;
    let target = us
        .ancestors()
        .nth(2)
        .context("this program is not in a target folder")?;
    Ok(target.join("bench"))
}

fn now_in_a_name() -> Result<String> {
    let form = time::format_description::parse_borrowed::<2>(
        "[year]-[month]-[day]T[hour]-[minute]-[second]Z",
    )?;
    Ok(time::OffsetDateTime::now_utc().format(&form)?)
}
