//! With the workers away executions are submitted; then the workers come and run what waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::try_join_all;

use crate::args::{Args, Part};
use crate::bed::Bed;
use crate::caller::{BATCH, Callers, submission};
use crate::figure::{Figure, Findings};

const BATCH_CALLERS: usize = 4;
const SINGLE_CALLERS: usize = 32;

/// Submits in batches and one by one, and drains, as far as it is wanted.
pub(crate) async fn measure(
    bed: &mut Bed,
    callers: &Callers,
    args: &Args,
    findings: &mut Findings,
) -> Result<()> {
    let extent = args.extent();
    bed.send_workers_away().await?;
    if args.wants(Part::Batch) || args.wants(Part::Drain) {
        let before = bed.usage()?;
        let rate = submit_batches(callers, extent.executions).await?;
        findings.add(Figure::Batch, rate);
        let cost = bed
            .meter
            .cost(&bed.cluster, &before, extent.executions as f64)?;
        findings.add_cost(Figure::Batch, cost);
    }
    if args.wants(Part::Single) {
        let before = bed.usage()?;
        let times = submit_singles(callers, extent.single).await?;
        let count = times.len() as f64;
        findings.add(Figure::Single, count / extent.single.as_secs_f64());
        findings.add_cost(
            Figure::Single,
            bed.meter.cost(&bed.cluster, &before, count)?,
        );
        findings.add_times(Figure::SingleP50, Figure::SingleP99, times);
    }
    if args.wants(Part::Drain) {
        return drain(bed, findings).await;
    }
    bed.bring_workers_back().await?;
    bed.tally.wait_until_empty().await?;
    Ok(())
}

/// From the last moment in which nothing was finished yet: the workers' start is left out, their first
/// steps are not.
async fn drain(bed: &mut Bed, findings: &mut Findings) -> Result<()> {
    let before = bed.usage()?;
    let (first, mut tally) = (bed.tally.read().await?, bed.second_tally().await?);
    let starting = bed.bring_workers_back();
    let running = async {
        let begin = tally.wait_until_more_than(first.finished).await?;
        let last = tally.wait_until_empty().await?;
        anyhow::Ok((last.finished, begin.elapsed()))
    };
    let ((), (last, took)) = tokio::try_join!(starting, running)?;
    let finished = (last - first.finished) as f64;
    findings.add(Figure::Drain, finished / took.as_secs_f64());
    findings.add_cost(
        Figure::Drain,
        bed.meter.cost(&bed.cluster, &before, finished)?,
    );
    Ok(())
}

/// Submits about so many in batches; gives how many a second.
async fn submit_batches(callers: &Callers, executions: u64) -> Result<f64> {
    let batches = executions.div_ceil(BATCH);
    let (next, begin) = (AtomicU64::new(0), Instant::now());
    let one_caller = |caller: usize| {
        let next = &next;
        async move {
            while next.fetch_add(1, Ordering::Relaxed) < batches {
                callers.submit_batch(caller).await?;
            }
            anyhow::Ok(())
        }
    };
    try_join_all((0..BATCH_CALLERS).map(one_caller)).await?;
    Ok((batches * BATCH) as f64 / begin.elapsed().as_secs_f64())
}

/// Submits one after the other from each caller for so long; gives how long each call took.
async fn submit_singles(callers: &Callers, duration: Duration) -> Result<Vec<Duration>> {
    let end = Instant::now() + duration;
    let one_caller = |caller: usize| async move {
        let mut times = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            callers
                .submit(caller, submission(times.len() as u64, "noop"))
                .await?;
            times.push(begin.elapsed());
        }
        anyhow::Ok(times)
    };
    Ok(try_join_all((0..SINGLE_CALLERS).map(one_caller))
        .await?
        .concat())
}
