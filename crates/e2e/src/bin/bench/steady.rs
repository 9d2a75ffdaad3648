//! Half of what can be submitted and run at once, for long: whether anybody's memory grows.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::bed::Bed;
use crate::caller::{BATCH, Callers};
use crate::figure::{Figure, Findings};
use crate::sustained;

const CALLERS: usize = 4;
/// How long the highest rate is looked for.
const FULL_SPEED: Duration = Duration::from_secs(20);
/// Caches fill and pools open meanwhile.
const WARM_UP: Duration = Duration::from_secs(120);
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const SECONDS_AN_HOUR: f64 = 3_600.0;

/// What a process took over time.
struct Course {
    process: String,
    /// Seconds since the beginning, and MiB.
    samples: Vec<(f64, f64)>,
}

/// What came of it.
pub(crate) struct Steady {
    highest: f64,
    reached: f64,
    minutes: f64,
    courses: Vec<Course>,
}

/// Submits at half the highest rate for so long, and takes everybody's memory meanwhile.
pub(crate) async fn measure(
    bed: &mut Bed,
    callers: &Callers,
    duration: Duration,
) -> Result<Steady> {
    let mut findings = Findings::default();
    sustained::measure(bed, callers, FULL_SPEED, &mut findings).await?;
    let highest = findings.median(Figure::Sustained).unwrap_or(0.0);
    ensure!(highest > 0.0, "nothing was finished at full speed");
    let rate = highest / 2.0;
    let submitting = paced(callers.clone(), rate);
    let submitters: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(submitting(caller)))
        .collect();
    sleep(WARM_UP).await;
    let (begin, first) = (Instant::now(), bed.tally.read().await?);
    let mut courses: Vec<Course> = Vec::new();
    let mut ticks = interval(SAMPLE_EVERY);
    while begin.elapsed() < duration {
        ticks.tick().await;
        ensure!(
            submitters.iter().all(|submitter| !submitter.is_finished()),
            "a caller ended"
        );
        take_samples(bed, &mut courses, begin.elapsed().as_secs_f64())?;
    }
    let finished = (bed.tally.read().await?.finished - first.finished) as f64;
    let seconds = begin.elapsed().as_secs_f64();
    submitters.iter().for_each(tokio::task::JoinHandle::abort);
    bed.tally.wait_until_empty().await?;
    Ok(Steady {
        highest,
        reached: finished / seconds,
        minutes: seconds / 60.0,
        courses,
    })
}

/// A caller that submits its part of a rate. One that is late hurries.
fn paced(
    callers: Callers,
    rate: f64,
) -> impl Fn(usize) -> futures::future::BoxFuture<'static, Result<()>> {
    let every = Duration::from_secs_f64(CALLERS as f64 * BATCH as f64 / rate);
    move |caller| {
        let callers = callers.clone();
        Box::pin(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                ticks.tick().await;
                callers.submit_batch(caller).await?;
            }
        })
    }
}

fn take_samples(bed: &Bed, courses: &mut Vec<Course>, at: f64) -> Result<()> {
    for (process, mib) in bed.meter.resident(&bed.cluster)? {
        let known = courses.iter_mut().find(|course| course.process == process);
        match known {
            Some(course) => course.samples.push((at, mib)),
            None => courses.push(Course {
                process,
                samples: vec![(at, mib)],
            }),
        }
    }
    Ok(())
}

impl Course {
    /// What it grows by in an hour, in MiB, by the straight line that is closest to all samples.
    fn slope(&self) -> f64 {
        let count = self.samples.len() as f64;
        let mean =
            |value: fn(&(f64, f64)) -> f64| self.samples.iter().map(value).sum::<f64>() / count;
        let (time, memory) = (mean(|it| it.0), mean(|it| it.1));
        let both = self
            .samples
            .iter()
            .map(|it| (it.0 - time) * (it.1 - memory));
        let spread = self.samples.iter().map(|it| (it.0 - time).powi(2));
        SECONDS_AN_HOUR * both.sum::<f64>() / spread.sum::<f64>().max(f64::MIN_POSITIVE)
    }

    /// The mean of a tenth of the samples, at the beginning or the end.
    fn tenth(&self, last: bool) -> f64 {
        let count = self.samples.len().div_ceil(10);
        let skip = if last { self.samples.len() - count } else { 0 };
        let tenth = self.samples.iter().skip(skip).take(count);
        tenth.map(|it| it.1).sum::<f64>() / count as f64
    }
}

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Submitted and run at once: {:.0}/s at full speed, {:.0}/s in these {:.0} minutes, after {} s of it.\n",
            self.highest,
            self.reached,
            self.minutes,
            WARM_UP.as_secs()
        )?;
        writeln!(
            f,
            "| process | first tenth, MiB | last tenth, MiB | highest, MiB | slope, MiB an hour |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|")?;
        for course in &self.courses {
            let highest = course.samples.iter().map(|it| it.1).fold(0.0, f64::max);
            writeln!(
                f,
                "| {} | {:.1} | {:.1} | {highest:.1} | {:+.1} |",
                course.process,
                course.tenth(false),
                course.tenth(true),
                course.slope()
            )?;
        }
        Ok(())
    }
}
