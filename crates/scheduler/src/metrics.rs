use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};
use service::seconds_buckets;
use store::QueryTimes;

use crate::line_families::LineFamilies;

/// The scheduler's metrics. Outcomes are counted after their commit.
pub(crate) struct Metrics {
    /// One read of due entries.
    pub(crate) polling: Histogram,
    /// Due entries that became eligible.
    pub(crate) polled: IntCounter,
    /// From eligible to handed out.
    pub(crate) dispatch_latency: Histogram,
    pub(crate) is_leader: IntGauge,
    pub(crate) transitions: IntCounter,
    /// 0 for a follower.
    pub(crate) epoch: IntGauge,
    /// When presence was written last.
    pub(crate) heartbeat: Gauge,
    pub(crate) db_errors: IntCounter,
    /// Worker streams that broke.
    pub(crate) stream_errors: IntCounter,
    pub(crate) lanes_owned: IntGauge,
    /// Windows that could not go because too much is open in them, each time that a lane found so.
    pub(crate) windows_held_back: IntCounter,
    pub(crate) log_lines_suppressed: IntCounter,
    pool_in_use: IntGauge,
    pool_available: IntGauge,
    pool_max: IntGauge,
    pub(crate) lines: LineFamilies,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, scheduler_id: &str) -> anyhow::Result<Arc<Self>> {
        let all = Families { registry };
        let own = Own {
            registry,
            scheduler_id,
        };
        let metrics = Self {
            polling: own.histogram(
                "scheduler_polling_duration_seconds",
                "One read of due entries.",
            )?,
            polled: own.counter(
                "scheduler_jobs_polled_total",
                "Due entries that became eligible.",
            )?,
            dispatch_latency: own.histogram(
                "scheduler_dispatch_latency_seconds",
                "From eligible (due, enqueued) to handed to a worker.",
            )?,
            is_leader: own.gauge("scheduler_is_leader", "1 for the leader, 0 for a follower.")?,
            transitions: own.counter(
                "scheduler_leadership_transitions_total",
                "Times that the lead was gained or lost.",
            )?,
            epoch: own.gauge(
                "scheduler_leader_epoch",
                "The fencing epoch held, 0 for none.",
            )?,
            heartbeat: own.seconds(
                "scheduler_heartbeat_timestamp",
                "When the scheduler last wrote that it lives, in unix seconds.",
            )?,
            db_errors: own.counter("scheduler_db_connection_errors_total", "Database errors.")?,
            stream_errors: own.counter(
                "scheduler_queue_connection_errors_total",
                "Worker streams that broke.",
            )?,
            lanes_owned: own.gauge("scheduler_lanes_owned", "Lanes that this scheduler owns.")?,
            windows_held_back: own.counter(
                "scheduler_windows_held_back_total",
                "Windows that could not go because too much is open in them.",
            )?,
            log_lines_suppressed: all.counter(
                "log_lines_suppressed_total",
                "Lines about single executions that were left out for their number.",
            )?,
            pool_in_use: all.gauge("database_pool_connections_in_use", "Pooled, in use.")?,
            pool_available: all.gauge("database_pool_connections_available", "Pooled, idle.")?,
            pool_max: all.gauge("database_pool_connections_max", "Pooled, at most.")?,
            lines: LineFamilies::new(&all, &own)?,
        };
        Ok(Arc::new(metrics))
    }

    /// Notes how the pool is used.
    pub(crate) fn note_pool(&self, (in_use, available, max): (u32, u32, u32)) {
        self.pool_in_use.set(i64::from(in_use));
        self.pool_available.set(i64::from(available));
        self.pool_max.set(i64::from(max));
    }
}

/// What measures the statements: `database_query_duration_seconds` and `database_queries_total`.
pub(crate) fn query_times(registry: &Registry) -> anyhow::Result<QueryTimes> {
    let all = Families { registry };
    let durations = all.histograms(
        "database_query_duration_seconds",
        "How long a statement took, by its name.",
        &["query"],
    )?;
    let queries = all.counters("database_queries_total", "Statements, by kind.", &["type"])?;
    for kind in ["insert", "select", "update", "delete"] {
        queries.with_label_values(&[kind]);
    }
    Ok(Arc::new(move |name, kind, took| {
        durations
            .with_label_values(&[name])
            .observe(took.as_secs_f64());
        queries.with_label_values(&[kind]).inc();
    }))
}

/// Makes and registers families.
pub(crate) struct Families<'a> {
    pub(crate) registry: &'a Registry,
}

impl Families<'_> {
    fn counter(&self, name: &str, help: &str) -> anyhow::Result<IntCounter> {
        register(self.registry, IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> anyhow::Result<IntGauge> {
        register(self.registry, IntGauge::new(name, help)?)
    }

    pub(crate) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> anyhow::Result<IntCounterVec> {
        register(
            self.registry,
            IntCounterVec::new(Opts::new(name, help), labels)?,
        )
    }

    pub(crate) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> anyhow::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(seconds_buckets());
        register(self.registry, HistogramVec::new(opts, labels)?)
    }
}

/// Makes and registers what carries this scheduler's id.
pub(crate) struct Own<'a> {
    registry: &'a Registry,
    scheduler_id: &'a str,
}

impl Own<'_> {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_label("scheduler_id", self.scheduler_id)
    }

    fn counter(&self, name: &str, help: &str) -> anyhow::Result<IntCounter> {
        register(self.registry, IntCounter::with_opts(self.opts(name, help))?)
    }

    pub(crate) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> anyhow::Result<IntCounterVec> {
        register(
            self.registry,
            IntCounterVec::new(self.opts(name, help), labels)?,
        )
    }

    fn gauge(&self, name: &str, help: &str) -> anyhow::Result<IntGauge> {
        register(self.registry, IntGauge::with_opts(self.opts(name, help))?)
    }

    fn seconds(&self, name: &str, help: &str) -> anyhow::Result<Gauge> {
        register(self.registry, Gauge::with_opts(self.opts(name, help))?)
    }

    fn histogram(&self, name: &str, help: &str) -> anyhow::Result<Histogram> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(seconds_buckets());
        register(self.registry, Histogram::with_opts(opts)?)
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> anyhow::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
