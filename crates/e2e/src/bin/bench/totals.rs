//! How many executions there are, by the database's word.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

/// How often it is looked whether something is done.
const LOOK: Duration = Duration::from_millis(20);
/// Nothing that goes on at all finishes nothing for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sums over all lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Totals {
    pub(crate) submitted: i64,
    pub(crate) finished: i64,
}

impl Totals {
    /// Accepted and not yet finished.
    pub(crate) fn open(self) -> i64 {
        self.submitted - self.finished
    }
}

/// Reads the totals that the lanes' last chain rows carry.
pub(crate) struct Tally {
    connection: PgConnection,
    lanes: i32,
}

impl Tally {
    pub(crate) async fn connect(url: &str, lanes: u16) -> Result<Self> {
        let connection = PgConnection::connect(url).await?;
        Ok(Self {
            connection,
            lanes: lanes.into(),
        })
    }

    pub(crate) async fn read(&mut self) -> Result<Totals> {
        const LAST: &str = "select coalesce(sum(last.submitted), 0)::int8,
                 coalesce(sum(last.finished), 0)::int8
             from generate_series(0, $1 - 1) lane, lateral (
                 select submitted, finished from chain
                 where chain.lane = lane::int2 order by n desc limit 1) last";
        let (submitted, finished) = sqlx::query_as(LAST)
            .bind(self.lanes)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(Totals {
            submitted,
            finished,
        })
    }

    /// Waits until more than so many are finished; gives the last moment in which they weren't.
    ///
    /// # Errors
    /// Nothing happens.
    pub(crate) async fn wait_until_more_than(&mut self, finished: i64) -> Result<Instant> {
        let begin = Instant::now();
        let mut not_yet = begin;
        loop {
            let moment = Instant::now();
            if self.read().await?.finished > finished {
                return Ok(not_yet);
            }
            not_yet = moment;
            ensure!(
                begin.elapsed() < PATIENCE,
                "nothing has been finished for {PATIENCE:?}"
            );
            sleep(LOOK / 4).await;
        }
    }

    /// Waits until everything that was accepted is finished.
    ///
    /// # Errors
    /// Nothing is finished any more though something is open.
    pub(crate) async fn wait_until_empty(&mut self) -> Result<Totals> {
        let mut last = self.read().await?;
        let mut progress = Instant::now();
        while last.open() > 0 {
            sleep(LOOK).await;
            let now = self.read().await?;
            if now.finished > last.finished {
                progress = Instant::now();
            }
            ensure!(
                progress.elapsed() < PATIENCE,
                "{} executions are open and none has been finished for {PATIENCE:?}; \
                 the processes' logs may tell why",
                now.open()
            );
            last = now;
        }
        Ok(last)
    }
}
