//! Submitting and running at once.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::bed::Bed;
use crate::caller::Callers;
use crate::figure::{Figure, Findings};
use crate::totals::Tally;

const CALLERS: usize = 4;
/// Callers hold back while more are open: enough to keep everybody busy, and no growing backlog.
const MOST_OPEN: i64 = 20_000;
const WARM_UP: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);

/// Submits in batches of 500 for `duration` while the workers run, and measures what gets finished.
pub(crate) async fn measure(
    bed: &mut Bed,
    callers: &Callers,
    duration: Duration,
    findings: &mut Findings,
) -> Result<()> {
    let end = Instant::now() + WARM_UP + duration;
    let (say, open) = watch::channel(0);
    let submitting =
        try_join_all((0..CALLERS).map(|caller| submit(callers, caller, open.clone(), end)));
    let measuring = async {
        watch_open(&mut bed.tally, &say, Instant::now() + WARM_UP).await?;
        let (before, first) = (bed.meter.usage(&bed.cluster)?, bed.tally.read().await?);
        let begin = Instant::now();
        watch_open(&mut bed.tally, &say, end).await?;
        let finished = (bed.tally.read().await?.finished - first.finished) as f64;
        findings.add(Figure::Sustained, finished / begin.elapsed().as_secs_f64());
        let cost = bed.meter.cost(&bed.cluster, &before, finished)?;
        findings.add_cost(Figure::Sustained, cost);
        anyhow::Ok(())
    };
    tokio::try_join!(submitting, measuring)?;
    bed.tally.wait_until_empty().await?;
    Ok(())
}

/// One caller.
async fn submit(
    callers: &Callers,
    caller: usize,
    mut open: watch::Receiver<i64>,
    end: Instant,
) -> Result<()> {
    while Instant::now() < end {
        // Until the end at most: whoever watches may have gone by then. What is borrowed from the
        // channel is given back within the statement, or the watcher couldn't say the next number.
        let has_room = matches!(
            timeout_at(end, open.wait_for(|open| *open < MOST_OPEN)).await,
            Ok(Ok(_))
        );
        if has_room {
            callers.submit_batch(caller).await?;
        }
    }
    Ok(())
}

/// Tells the callers how many are open, until `end`.
async fn watch_open(tally: &mut Tally, say: &watch::Sender<i64>, end: Instant) -> Result<()> {
    while Instant::now() < end {
        say.send_replace(tally.read().await?.open());
        sleep(LOOK).await;
    }
    Ok(())
}
