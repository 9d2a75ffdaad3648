//! One run: so many connections write batches of one size for so long.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::cpu::{self, Cpu};
use crate::feed::Feed;
use crate::place::Place;
use crate::write::{Pen, Way};

/// What a run is made of.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) connections: usize,
    pub(crate) size: u32,
    pub(crate) duration: Duration,
}

/// What one run showed.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    /// Executions a second, each with a row of `execution` and one of `outcome`.
    pub(crate) rate: f64,
    /// Processor time for each, in microseconds.
    pub(crate) client_us: f64,
    pub(crate) server_us: f64,
}

/// A writer with its lane.
struct Line {
    feed: Feed,
    pen: Pen,
}

/// Makes one run.
pub(crate) async fn measure(
    place: &Place,
    case: Case,
    way: Way,
) -> Result<Measured, Box<dyn Error>> {
    const WARM_UP: Duration = Duration::from_millis(200);
    let mut lines = Vec::new();
    for number in 0..case.connections {
        let feed = Feed::new(place.lane(number).await?);
        lines.push(Line {
            feed,
            pen: Pen::take(place, way).await?,
        });
    }
    let postmaster = cpu::postmaster(&place.url).await?;
    write_all(&mut lines, place, case.size, WARM_UP).await?;
    let (before, begin) = (Cpu::now(postmaster)?, Instant::now());
    let written = write_all(&mut lines, place, case.size, case.duration).await?;
    let (after, took) = (Cpu::now(postmaster)?, begin.elapsed());
    let each = |time: Duration| time.as_secs_f64() * 1e6 / written;
    Ok(Measured {
        rate: written / took.as_secs_f64(),
        client_us: each(after.client.saturating_sub(before.client)),
        server_us: each(after.server.saturating_sub(before.server)),
    })
}

/// Writes with all connections at once; gives how many executions.
async fn write_all(
    lines: &mut [Line],
    place: &Place,
    size: u32,
    duration: Duration,
) -> Result<f64, Box<dyn Error>> {
    let end = Instant::now() + duration;
    match lines {
        [one] => one.write(place, size, end).await,
        [one, two] => {
            let (one, two) =
                tokio::try_join!(one.write(place, size, end), two.write(place, size, end))?;
            Ok(one + two)
        }
        _ => Err("one or two connections".into()),
    }
}

impl Line {
    async fn write(
        &mut self,
        place: &Place,
        size: u32,
        end: Instant,
    ) -> Result<f64, Box<dyn Error>> {
        let mut written = 0.0;
        while Instant::now() < end {
            let batch = self.feed.next(size);
            self.pen.write(&place.windows, &batch).await?;
            self.feed.apply(&batch);
            written += f64::from(size);
        }
        Ok(written)
    }
}

impl Measured {
    /// The middle one of each figure.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let middle = |figure: fn(&Self) -> f64| {
            let mut figures: Vec<f64> = runs.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        Self {
            rate: middle(|run| run.rate),
            client_us: middle(|run| run.client_us),
            server_us: middle(|run| run.server_us),
        }
    }
}
