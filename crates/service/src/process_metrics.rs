//! The metrics that every process has, whatever its work.

use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, HistogramOpts, IntGaugeVec, Opts, Registry};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::metrics::seconds_buckets;

/// The version of this build.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of this build, which the build gives in `WATCHWORK_REVISION`.
const REVISION: &str = match option_env!("WATCHWORK_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

const LAG_INTERVAL: Duration = Duration::from_millis(100);

/// Registers `build_info`, `process_*` and `runtime_lag_seconds`, and keeps the last one going
/// until the runtime ends.
pub(crate) fn start(registry: &Registry) -> Result<(), prometheus::Error> {
    let opts = Opts::new("build_info", "What this process was built from; always 1.");
    let build = IntGaugeVec::new(opts, &["version", "revision"])?;
    build.with_label_values(&[VERSION, REVISION]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;

    let opts = HistogramOpts::new(
        "runtime_lag_seconds",
        "Lateness of a 100 ms timer: how long a task that is ready waits for a thread.",
    );
    let lag = Histogram::with_opts(opts.buckets(seconds_buckets()))?;
    registry.register(Box::new(lag.clone()))?;
    tokio::spawn(measure_lag(lag));
    Ok(())
}

async fn measure_lag(lag: Histogram) {
    let mut timer = interval(LAG_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = timer.tick().await;
        lag.observe(Instant::now().duration_since(due).as_secs_f64());
    }
}
