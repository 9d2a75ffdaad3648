use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};
use service::{LabelGuard, seconds_buckets};

use crate::outcome::Status;
use crate::process_usage::ProcessUsage;

/// Job types that get a duration histogram of their own; further ones share `_other`.
const MAX_TYPES: usize = 200;

/// The worker's own view of its work; each metric carries `worker_id` and `pool`.
pub(crate) struct Metrics {
    pub(crate) received: IntCounter,
    pub(crate) concurrent: IntGauge,
    pub(crate) utilization: Gauge,
    pub(crate) heartbeat: Gauge,
    pub(crate) lines_suppressed: IntCounter,
    pub(crate) checkpoints: Checkpoints,
    last_completed: Gauge,
    completed: [IntCounter; Status::COUNTED.len()],
    durations: HashMap<String, Histogram>,
}

/// What became of what handlers saved.
pub(crate) struct Checkpoints {
    pub(crate) saved: IntCounter,
    pub(crate) failed: IntCounter,
}

/// Whose metrics they are.
pub(crate) struct Labels<'a> {
    pub(crate) worker_id: &'a str,
    pub(crate) pool: &'a str,
}

impl Metrics {
    /// Registers them all.
    ///
    /// # Errors
    /// The registry holds one of them already: two workers share it.
    pub(crate) fn register(
        registry: &Registry,
        labels: &Labels<'_>,
        job_types: &[String],
        slots: u32,
    ) -> prometheus::Result<Self> {
        let max = labels.gauge(
            registry,
            "worker_max_concurrent_executions",
            "Attempts that the worker runs at a time at most.",
        )?;
        max.set(f64::from(slots));
        let start = labels.gauge(
            registry,
            "worker_start_timestamp",
            "When the worker started.",
        )?;
        start.set(unix_seconds());
        registry.register(Box::new(ProcessUsage::new(labels)?))?;
        let completed = labels.completed(registry)?;
        let concurrent = IntGauge::with_opts(
            labels.opts("worker_concurrent_executions", "Attempts running now."),
        )?;
        registry.register(Box::new(concurrent.clone()))?;
        Ok(Self {
            received: labels.counter(registry, "worker_tasks_received_total", "Tasks taken on.")?,
            concurrent,
            utilization: labels.gauge(
                registry,
                "worker_utilization_percent",
                "100 x running / slots.",
            )?,
            heartbeat: labels.gauge(
                registry,
                "worker_heartbeat_timestamp",
                "When a scheduler last answered a heartbeat.",
            )?,
            lines_suppressed: labels.counter(
                registry,
                "log_lines_suppressed_total",
                "Lines of single executions not logged, because there were too many a second.",
            )?,
            checkpoints: Checkpoints {
                saved: labels.counter(
                    registry,
                    "worker_checkpoint_success_total",
                    "Checkpoints that were acknowledged as durable.",
                )?,
                failed: labels.counter(
                    registry,
                    "worker_checkpoint_failures_total",
                    "Checkpoints that were refused, or whose attempts were over before an answer.",
                )?,
            },
            last_completed: labels.gauge(
                registry,
                "worker_last_task_completed_timestamp",
                "When an attempt last ended.",
            )?,
            completed,
            durations: labels.durations(registry, job_types)?,
        })
    }

    /// An attempt ended.
    pub(crate) fn count_end(&self, job_type: &str, status: Status, ran: std::time::Duration) {
        if let Some(counter) = self.completed.get(status as usize) {
            counter.inc();
        }
        self.last_completed.set(unix_seconds());
        if let Some(histogram) = self.durations.get(job_type) {
            histogram.observe(ran.as_secs_f64());
        }
    }
}

impl Labels<'_> {
    pub(crate) fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help)
            .const_label("worker_id", self.worker_id)
            .const_label("pool", self.pool)
    }

    fn counter(
        &self,
        registry: &Registry,
        name: &str,
        help: &str,
    ) -> prometheus::Result<IntCounter> {
        let counter = IntCounter::with_opts(self.opts(name, help))?;
        registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn gauge(&self, registry: &Registry, name: &str, help: &str) -> prometheus::Result<Gauge> {
        let gauge = Gauge::with_opts(self.opts(name, help))?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn completed(
        &self,
        registry: &Registry,
    ) -> prometheus::Result<[IntCounter; Status::COUNTED.len()]> {
        let opts = self.opts(
            "worker_tasks_completed_total",
            "Attempts that ended, by status.",
        );
        let family = IntCounterVec::new(opts, &["status"])?;
        registry.register(Box::new(family.clone()))?;
        Ok(Status::COUNTED.map(|status| family.with_label_values(&[status.label()])))
    }

    /// The types are known from the beginning, so each has its histogram before its first run.
    fn durations(
        &self,
        registry: &Registry,
        job_types: &[String],
    ) -> prometheus::Result<HashMap<String, Histogram>> {
        const NAME: &str = "worker_execution_duration_seconds";
        let opts = self.opts(NAME, "Run time of an attempt.");
        let opts = HistogramOpts {
            common_opts: opts,
            buckets: seconds_buckets(),
        };
        let family = HistogramVec::new(opts, &["job_type"])?;
        registry.register(Box::new(family.clone()))?;
        let guard = LabelGuard::new(NAME, MAX_TYPES, registry);
        let histogram = |job_type: &String| {
            (
                job_type.clone(),
                family.with_label_values(&[&*guard.admit(job_type)]),
            )
        };
        Ok(job_types.iter().map(histogram).collect())
    }
}

/// Now, as timestamps in metrics are: seconds since 1970.
pub(crate) fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
