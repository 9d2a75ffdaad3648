//! What the chains of all lanes say, replayed as a new owner would.

use std::sync::Arc;

use anyhow::{Result, ensure};
use domain::LaneId;
use e2e::Rig;
use store::{Database, Writer};

/// Checks that by every lane's chain nothing waits or runs any more, and that its totals are the
/// numbers of rows.
pub(crate) async fn assert_all_is_done(rig: &Rig) -> Result<()> {
    let url = rig.cluster.database_url();
    let database = Database::connect(url, 1, Arc::new(|_, _, _| {})).await?;
    let mut reader = Writer::new(database);
    let lanes = u16::try_from(rig.ledger.lanes().await?)?;
    for lane in (0..lanes).map(LaneId) {
        let memory = reader.replay(lane).await?;
        let open = (
            memory.waiting().len(),
            memory.running().len(),
            memory.timers().len(),
        );
        ensure!(
            open == (0, 0, 0),
            "lane {lane}: (waiting, running, timers) = {open:?}"
        );
        let (executions, ended) = rows(rig, lane).await?;
        let totals = memory.totals();
        ensure!(
            (totals.submitted, totals.finished) == (executions, ended),
            "lane {lane}: {totals:?}, but {executions} executions and {ended} final outcomes"
        );
        for (queue, priority, line) in memory.lines() {
            ensure!(
                line.enqueued == line.dequeued + line.removed
                    && line.dequeued == line.acknowledged + line.rejected
                    && line.retrying == 0
                    && line.scheduled == 0,
                "lane {lane}, queue {queue}, {}: {line:?}",
                priority.name()
            );
        }
    }
    Ok(())
}

/// How many executions there are, counted again for each time that somebody had one run again; and how many
/// final outcomes, without those of somebody who discarded what was over.
async fn rows(rig: &Rig, lane: LaneId) -> Result<(u64, u64)> {
    const ROWS: &str = "with o as (
            select seq, fence, result, state from outcome where lane = $1
            union select seq, fence, result, state from kept_outcome where lane = $1
        ) select
        (select count(*) from (select seq from execution where lane = $1
            union select seq from kept_execution where lane = $1) e)
            + (select count(*) from o where result = 0 and state = 3),
        (select count(*) from o where result <> 0 and state in (6, 7, 8, 9))";
    let (executions, ended): (i64, i64) = sqlx::query_as(ROWS)
        .bind(i16::try_from(lane.0)?)
        .fetch_one(rig.ledger.pool())
        .await?;
    Ok((u64::try_from(executions)?, u64::try_from(ended)?))
}
