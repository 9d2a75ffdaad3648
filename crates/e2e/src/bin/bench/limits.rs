//! The raw limits, measured by pgbench with the scripts of `bench/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

use crate::bed::Bed;
use crate::figure::{Figure, Findings};

const STATUS_ROW: &str = include_str!("../../../../../bench/status_row.sql");
const INSERT_ONLY: &str = include_str!("../../../../../bench/insert_only.sql");

/// One limit: the table it begins with, the script, and how it is run.
struct Limit {
    figure: Figure,
    schema: &'static str,
    script: &'static str,
    clients: u32,
    jobs_each: f64,
    /// Whether the planner is held to the indexes: statistics of such tables are always wrong.
    by_index: bool,
}

const LIMITS: [Limit; 4] = [
    Limit {
        figure: Figure::RawStatusRow,
        schema: STATUS_ROW,
        script: include_str!("../../../../../bench/status_row_cycle.sql"),
        clients: 2,
        jobs_each: 500.0,
        by_index: true,
    },
    Limit {
        figure: Figure::RawInsertOnly,
        schema: INSERT_ONLY,
        script: include_str!("../../../../../bench/insert_only_cycle.sql"),
        clients: 2,
        jobs_each: 500.0,
        by_index: false,
    },
    Limit {
        figure: Figure::RawBatch,
        schema: STATUS_ROW,
        script: include_str!("../../../../../bench/insert_batch.sql"),
        clients: 4,
        jobs_each: 500.0,
        by_index: false,
    },
    Limit {
        figure: Figure::RawSingle,
        schema: STATUS_ROW,
        script: include_str!("../../../../../bench/insert_one.sql"),
        clients: 32,
        jobs_each: 1.0,
        by_index: false,
    },
];

/// Runs each limit once, for `duration`.
pub(crate) async fn measure(
    bed: &Bed,
    dir: &Path,
    duration: Duration,
    findings: &mut Findings,
) -> Result<()> {
    let pgbench = bed.postgres_programs().await?.join("pgbench");
    let mut connection = PgConnection::connect(&bed.limits_url).await?;
    for limit in &LIMITS {
        sqlx::raw_sql(AssertSqlSafe(limit.schema))
            .execute(&mut connection)
            .await?;
        let script = dir.join("limit.sql");
        fs::write(&script, limit.script)?;
        let rate = limit
            .run(&pgbench, &script, &bed.limits_url, duration)
            .await?;
        findings.add(limit.figure, rate);
    }
    sqlx::raw_sql("drop table status_job, lane_job, lane_claim, lane_outcome")
        .execute(&mut connection)
        .await?;
    Ok(())
}

impl Limit {
    async fn run(
        &self,
        pgbench: &PathBuf,
        script: &Path,
        url: &str,
        duration: Duration,
    ) -> Result<f64> {
        let mut command = Command::new(pgbench);
        command.args([
            "-n", "-M", "prepared", "-j", "2", "-D", "tail=0", "-D", "head=0",
        ]);
        command.args([
            "-c",
            &self.clients.to_string(),
            "-T",
            &duration.as_secs().to_string(),
        ]);
        command.arg("-f").arg(script).arg(url).kill_on_drop(true);
        if self.by_index {
            let off = "-c enable_sort=off -c enable_bitmapscan=off -c enable_seqscan=off";
            command.env("PGOPTIONS", off);
        }
        let output = command.output().await.with_context(|| {
            format!(
                "can't run {}: it comes with the PostgreSQL server",
                pgbench.display()
            )
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "pgbench failed for {}:\n{text}{}",
            self.figure.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        let rate = transactions_per_second(&text);
        Ok(rate.with_context(|| format!("pgbench doesn't say its tps:\n{text}"))? * self.jobs_each)
    }
}

/// Reads `tps = 401.2 (without initial connection time)`.
fn transactions_per_second(report: &str) -> Option<f64> {
    let line = report
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbench_says_its_rate_behind_tps() {
        let report = "latency average = 4.9 ms\ntps = 401.25 (without initial connection time)\n";
        assert_eq!(transactions_per_second(report), Some(401.25));
        assert_eq!(transactions_per_second("pgbench: error"), None);
    }
}
