use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry,
};
use service::{LabelGuard, seconds_buckets};
use store::QueryTimes;

/// Distinct queues, types and jobs that histograms tell apart.
const NAMES: usize = 200;

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
    pub(crate) log_lines_suppressed: IntCounter,
    pool_in_use: IntGauge,
    pool_available: IntGauge,
    pool_max: IntGauge,
    pub(crate) lines: LineFamilies,
}

/// Families whose labels are a line's: resolved once for each line.
pub(crate) struct LineFamilies {
    pub(crate) dispatched: IntCounterVec,
    pub(crate) enqueued: IntCounterVec,
    pub(crate) dequeued: IntCounterVec,
    pub(crate) acknowledged: IntCounterVec,
    pub(crate) rejected: IntCounterVec,
    pub(crate) completed: IntCounterVec,
    pub(crate) attempts: IntCounterVec,
    pub(crate) retried: IntCounterVec,
    pub(crate) reaped: IntCounterVec,
    pub(crate) duration: HistogramVec,
    pub(crate) enqueue_to_start: HistogramVec,
    pub(crate) to_dispatch: HistogramVec,
    pub(crate) to_completion: HistogramVec,
    pub(crate) queue_names: LabelGuard,
    pub(crate) type_names: LabelGuard,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, scheduler_id: &str) -> anyhow::Result<Arc<Self>> {
        let all = Families { registry };
        let own = Own { registry, scheduler_id };
        let metrics = Self {
            polling: own.histogram(
                "scheduler_polling_duration_seconds",
                "One read of due entries.",
            )?,
            polled: own.counter("scheduler_jobs_polled_total", "Due entries that became eligible.")?,
            dispatch_latency: own.histogram(
                "scheduler_dispatch_latency_seconds",
                "From eligible (due, enqueued) to handed to a worker.",
            )?,
            is_leader: own.gauge("scheduler_is_leader", "1 for the leader, 0 for a follower.")?,
            transitions: own.counter(
                "scheduler_leadership_transitions_total",
                "Times that the lead was gained or lost.",
            )?,
            epoch: own.gauge("scheduler_leader_epoch", "The fencing epoch held, 0 for none.")?,
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
            log_lines_suppressed: all.counter(
                "log_lines_suppressed_total",
                "Lines about single executions that were left out for their number.",
            )?,
            pool_in_use: all.gauge("database_pool_connections_in_use", "Pooled, in use.")?,
            pool_available: all.gauge("database_pool_connections_available", "Pooled, idle.")?,
            pool_max: all.gauge("database_pool_connections_max", "Pooled, at most.")?,
            lines: LineFamilies::new(&all)?,
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
        durations.with_label_values(&[name]).observe(took.as_secs_f64());
        queries.with_label_values(&[kind]).inc();
    }))
}

impl LineFamilies {
    fn new(all: &Families<'_>) -> anyhow::Result<Self> {
        let line = &["queue_name", "priority"];
        let queue = &["queue_name"];
        let typed = &["job_name", "job_type", "queue_name"];
        let status = &["job_name", "job_type", "queue_name", "priority", "status"];
        let result = &["job_type", "queue_name", "result"];
        Ok(Self {
            dispatched: all.counters(
                "scheduler_jobs_dispatched_total",
                "Executions handed to a worker.",
                &["priority", "queue_name"],
            )?,
            enqueued: all.counters(
                "queue_messages_enqueued_total",
                "Executions that entered QUEUED.",
                line,
            )?,
            dequeued: all.counters("queue_messages_dequeued_total", "Executions claimed.", line)?,
            acknowledged: all.counters(
                "queue_messages_acknowledged_total",
                "Claimed executions that came back as success.",
                queue,
            )?,
            rejected: all.counters(
                "queue_messages_rejected_total",
                "Claimed executions that came back as anything else.",
                queue,
            )?,
            completed: all.counters(
                "executions_completed_total",
                "What outcomes made of executions, RETRY included.",
                status,
            )?,
            attempts: all.counters(
                "execution_attempts_total",
                "Attempts, by how they ended.",
                result,
            )?,
            retried: all.counters("executions_retried_total", "Executions to be retried.", line)?,
            reaped: all.counters(
                "executions_reaped_total",
                "Executions taken back from a lost worker.",
                line,
            )?,
            duration: all.histograms(
                "execution_duration_seconds",
                "Run time of one attempt.",
                typed,
            )?,
            enqueue_to_start: all.histograms(
                "enqueue_to_start_seconds",
                "From enqueued to a worker's begin.",
                &["priority"],
            )?,
            to_dispatch: all.histograms(
                "schedule_to_dispatch_seconds",
                "From the scheduled time to handed out.",
                queue,
            )?,
            to_completion: all.histograms(
                "schedule_to_completion_seconds",
                "From the scheduled time to the final state.",
                queue,
            )?,
            queue_names: LabelGuard::new("queue_name", NAMES, all.registry),
            type_names: LabelGuard::new("job_type", NAMES, all.registry),
        })
    }
}

/// Makes and registers families.
struct Families<'a> {
    registry: &'a Registry,
}

impl Families<'_> {
    fn counter(&self, name: &str, help: &str) -> anyhow::Result<IntCounter> {
        register(self.registry, IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> anyhow::Result<IntGauge> {
        register(self.registry, IntGauge::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> anyhow::Result<IntCounterVec> {
        register(self.registry, IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> anyhow::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(seconds_buckets());
        register(self.registry, HistogramVec::new(opts, labels)?)
    }
}

/// Makes and registers what carries this scheduler's id.
struct Own<'a> {
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
