//! The task that sends finished spans to the trace store. Whatever the store does, it costs the
//! process nothing but the spans: the queue is bounded, each export has a deadline, and so has
//! the flush at the end.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prometheus::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::args::ServiceArgs;
use crate::otlp::{Destination, EXPORT_TIMEOUT, resource};
use crate::process::ServiceName;
use crate::process_metrics::VERSION;
use crate::span::{DropReason, FinishedSpan, SpanCounts, SpanSink};

const QUEUE_CAPACITY: usize = 8192;
const BATCH_SPANS: usize = 512;
const BATCH_DELAY: Duration = Duration::from_secs(1);
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);

/// The exporter of a process, seen from the outside.
pub(crate) struct SpanExport {
    sink: SpanSink,
    task: Option<(JoinHandle<()>, oneshot::Sender<Instant>)>,
}

impl SpanExport {
    /// Exports nothing.
    pub(crate) fn disabled() -> Self {
        Self {
            sink: SpanSink::disabled(),
            task: None,
        }
    }

    /// Starts the task, if `args` name a trace store.
    ///
    /// # Errors
    /// If the store's address or protocol is unusable; that it can be reached isn't asked.
    pub(crate) fn start(
        service: ServiceName,
        instance_id: &str,
        args: &ServiceArgs,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        let counts = SpanCounts::new(registry).context("can't register the metrics of traces")?;
        let Some(destination) = Destination::resolve(args)? else {
            return Ok(Self::disabled());
        };
        let exporters = Exporters::new(service, instance_id, &destination)?;
        let (sink, queue) = SpanSink::new(service, QUEUE_CAPACITY, counts.clone());
        let (stop, stopped) = oneshot::channel();
        let task = ExportTask {
            service,
            queue,
            exporters,
            counts,
            stopped,
            failing: false,
        };
        Ok(Self {
            sink,
            task: Some((tokio::spawn(task.run()), stop)),
        })
    }

    pub(crate) fn sink(&self) -> &SpanSink {
        &self.sink
    }

    /// Sends what is left, for at most three seconds; spans that come later, or are still there
    /// then, are dropped and counted.
    pub(crate) async fn finish(self) {
        let Some((task, stop)) = self.task else {
            return;
        };
        // Refused only if the task is gone, and then there is nothing to wait for.
        let _ = stop.send(Instant::now() + FLUSH_DEADLINE);
        // The task keeps the deadline itself; this one is for a runtime that is choked.
        let _ = timeout(FLUSH_DEADLINE + BATCH_DELAY, task).await;
    }
}

/// One exporter for each service that spans are emitted for: the service is a property of an
/// exporter, not of a span.
struct Exporters {
    each: [(ServiceName, SpanExporter); 3],
}

impl Exporters {
    fn new(
        service: ServiceName,
        instance_id: &str,
        destination: &Destination,
    ) -> anyhow::Result<Self> {
        let exporter = |name: ServiceName| {
            let instance_id = (name == service).then_some(instance_id);
            Ok::<_, anyhow::Error>((name, destination.exporter(&resource(name, instance_id))?))
        };
        let [gateway, scheduler, worker] = ServiceName::ALL;
        Ok(Self {
            each: [exporter(gateway)?, exporter(scheduler)?, exporter(worker)?],
        })
    }

    fn of(&self, service: ServiceName) -> &SpanExporter {
        let found = self.each.iter().find(|(name, _)| *name == service);
        &found.expect("there is one for every service").1
    }
}

struct ExportTask {
    service: ServiceName,
    queue: mpsc::Receiver<FinishedSpan>,
    exporters: Exporters,
    counts: SpanCounts,
    /// Tells that the process ends, and until when the rest may be sent.
    stopped: oneshot::Receiver<Instant>,
    /// Whether the last export failed: only changes are logged.
    failing: bool,
}

impl ExportTask {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        let deadline = loop {
            tokio::select! {
                biased;
                deadline = &mut self.stopped => break deadline.unwrap_or_else(|_| Instant::now()),
                () = collect(&mut self.queue, &mut batch) => {}
            }
            self.export(&mut batch, Instant::now() + EXPORT_TIMEOUT)
                .await;
        };
        self.flush(batch, deadline).await;
    }

    async fn flush(&mut self, mut batch: Vec<FinishedSpan>, deadline: Instant) {
        self.queue.close();
        loop {
            while batch.len() < BATCH_SPANS
                && let Ok(span) = self.queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                self.abandon(&mut batch);
            } else {
                self.export(&mut batch, deadline.min(Instant::now() + EXPORT_TIMEOUT))
                    .await;
            }
        }
    }

    fn abandon(&self, batch: &mut Vec<FinishedSpan>) {
        self.counts.queued.sub(batch.len() as i64);
        self.counts.drop_spans(batch.len(), DropReason::Shutdown);
        batch.clear();
    }

    /// Sends the batch, one request for each service in it.
    async fn export(&mut self, batch: &mut Vec<FinishedSpan>, deadline: Instant) {
        self.counts.queued.sub(batch.len() as i64);
        let mut by_service: [Vec<SpanData>; 3] = Default::default();
        let scope = InstrumentationScope::builder("watchwork")
            .with_version(VERSION)
            .build();
        for span in batch.drain(..) {
            let (service, span) = match span {
                FinishedSpan::Record(service, record) => {
                    (service, record.into_span_data(scope.clone()))
                }
                FinishedSpan::Traced(span) => (self.service, span),
            };
            by_service[service as usize].push(span);
        }
        for (service, spans) in ServiceName::ALL.into_iter().zip(by_service) {
            if !spans.is_empty() {
                self.send(service, spans, deadline).await;
            }
        }
    }

    async fn send(&mut self, service: ServiceName, spans: Vec<SpanData>, deadline: Instant) {
        let count = spans.len();
        let sent = timeout_at(deadline, self.exporters.of(service).export(spans)).await;
        match sent.unwrap_or(Err(OTelSdkError::Timeout(EXPORT_TIMEOUT))) {
            Ok(()) => {
                self.counts.exported.inc_by(count as u64);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(event = "trace_export_recovered", "spans are exported again");
                }
            }
            Err(error) => {
                self.counts.drop_spans(count, DropReason::ExportFailed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        event = "trace_export_failed",
                        %error,
                        "spans are lost until the trace store takes them again"
                    );
                }
            }
        }
    }
}

/// Waits for a first span, then for more until the batch is full or a second has passed. What was
/// taken is in `batch` at every moment, so this may be cancelled.
async fn collect(queue: &mut mpsc::Receiver<FinishedSpan>, batch: &mut Vec<FinishedSpan>) {
    batch.extend(queue.recv().await);
    let due = Instant::now() + BATCH_DELAY;
    while !batch.is_empty() && batch.len() < BATCH_SPANS {
        let room = BATCH_SPANS - batch.len();
        match timeout_at(due, queue.recv_many(batch, room)).await {
            Ok(taken) if taken > 0 => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use opentelemetry::KeyValue;
    use opentelemetry::trace::SpanKind;
    use otlp_receiver::{Receiver, ReceiverOptions};
    use serde_json::Value;
    use tokio::net::TcpListener;

    use super::*;
    use crate::args::{LogFormat, OtlpProtocol};
    use crate::span::SpanRecord;
    use crate::trace_context::{TraceContext, new_span_id, new_trace_id};

    fn start(endpoint: String, protocol: OtlpProtocol) -> (SpanExport, Registry) {
        let registry = Registry::new();
        let args = ServiceArgs {
            metrics_addr: None,
            instance_id: None,
            log_format: LogFormat::Json,
            tracing_enabled: true,
            tracing_endpoint: Some(endpoint),
            tracing_protocol: Some(protocol),
            tracing_sample_rate: 1.0,
            shutdown_grace: Duration::ZERO,
        };
        let export = SpanExport::start(ServiceName::Scheduler, "s-1", &args, &registry).unwrap();
        (export, registry)
    }

    fn span(name: &'static str, trace_id: [u8; 16]) -> SpanRecord {
        SpanRecord {
            name,
            kind: SpanKind::Producer,
            trace_id,
            span_id: new_span_id(),
            parent_span_id: Some([7; 8]),
            parent_is_remote: true,
            start: SystemTime::now(),
            end: SystemTime::now(),
            attributes: vec![KeyValue::new("queue", "default")],
            links: vec![TraceContext {
                trace_id: [8; 16],
                span_id: [9; 8],
                sampled: true,
            }],
            error: Some("it broke".to_owned()),
            tracestate: "scheduler=s-1".to_owned(),
        }
    }

    /// The sum of a metric over its labels.
    fn metric(registry: &Registry, name: &str) -> f64 {
        let families = registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        let value = |metric: &prometheus::proto::Metric| {
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        family.get_metric().iter().map(value).sum()
    }

    /// Emits far more than the queue holds, ends, and checks that nobody waited and nothing
    /// went uncounted.
    async fn costs_nothing_but_spans(endpoint: String) {
        const EMITTED: usize = 3 * QUEUE_CAPACITY;
        let (export, registry) = start(endpoint, OtlpProtocol::Grpc);
        let begun = Instant::now();
        for _ in 0..EMITTED {
            export.sink().emit(span("lost", [1; 16]));
        }
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "emitting must not wait"
        );
        let late = export.sink().clone();
        let begun = Instant::now();
        export.finish().await;
        assert!(begun.elapsed() < FLUSH_DEADLINE + Duration::from_secs(2));
        late.emit(span("late", [1; 16]));
        assert_eq!(
            metric(&registry, "trace_spans_dropped_total"),
            EMITTED as f64 + 1.0
        );
        assert_eq!(metric(&registry, "trace_spans_exported_total"), 0.0);
        assert_eq!(metric(&registry, "trace_export_queue_depth"), 0.0);
    }

    #[tokio::test]
    async fn a_store_that_hangs_costs_nothing_but_spans() {
        // Connections are made by the kernel, and never answered.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        costs_nothing_but_spans(format!("http://{}", listener.local_addr().unwrap())).await;
    }

    #[tokio::test]
    async fn a_store_that_refuses_costs_nothing_but_spans() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        costs_nothing_but_spans(format!("http://{address}")).await;
    }

    /// Sends a span of this service and one for the gateway; gives the trace from the store.
    async fn trace_received(protocol: OtlpProtocol) -> Value {
        let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
        let address = match protocol {
            OtlpProtocol::Grpc => receiver.otlp_grpc_addr,
            OtlpProtocol::Http => receiver.http_addr,
        };
        let (export, registry) = start(format!("http://{address}"), protocol);
        let trace_id = new_trace_id();
        export.sink().emit(span("schedule_job", trace_id));
        export
            .sink()
            .emit_for(ServiceName::ApiGateway, span("api_request", trace_id));
        export.finish().await;
        assert_eq!(metric(&registry, "trace_spans_exported_total"), 2.0);
        let id = hex::encode(trace_id);
        let url = format!("http://{}/api/traces/{id}", receiver.http_addr);
        let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        answer["data"][0].clone()
    }

    #[tokio::test]
    async fn a_flush_delivers_what_was_emitted_in_the_name_of_its_service() {
        for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
            let trace = trace_received(protocol).await;
            let spans = trace["spans"].as_array().unwrap();
            for (operation, service) in [
                ("schedule_job", "scheduler"),
                ("api_request", "api-gateway"),
            ] {
                let span = spans
                    .iter()
                    .find(|span| span["operationName"] == operation)
                    .unwrap();
                let process = &trace["processes"][span["processID"].as_str().unwrap()];
                assert_eq!(process["serviceName"], service);
                assert_eq!(span["references"][0]["spanID"], "07".repeat(8));
                assert_eq!(span["references"][1]["traceID"], "08".repeat(16));
                let instance = process["tags"].as_array().unwrap().iter();
                let instance = instance
                    .filter(|tag| tag["key"] == "service.instance.id")
                    .count();
                assert_eq!(instance, usize::from(service == "scheduler"));
            }
        }
    }
}
