//! A worker in this process.

use std::time::Duration;

use prometheus::Registry;
use service::{HeadSampler, Process, Readiness, ServiceName, SpanSink};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use worker::{RunError, Worker, WorkerBuilder};

use crate::handlers::Handlers;
use crate::scheduler::{SOON, Scheduler, worker_id};

pub(crate) struct TestWorker {
    pub(crate) process: Process,
    pub(crate) handlers: Handlers,
    running: AbortOnDropHandle<Result<(), RunError>>,
}

/// A worker of `slots` slots, with the test's handlers and the built-in ones.
pub(crate) fn start(seed: &Scheduler, slots: u32) -> TestWorker {
    start_with_grace(seed, slots, Duration::from_secs(10))
}

pub(crate) fn start_with_grace(
    seed: &Scheduler,
    slots: u32,
    shutdown_grace: Duration,
) -> TestWorker {
    start_with(seed, slots, shutdown_grace, |builder| builder)
}

pub(crate) fn start_with_cancel_grace(
    seed: &Scheduler,
    slots: u32,
    cancel_grace: Duration,
) -> TestWorker {
    start_with(seed, slots, Duration::from_secs(10), |builder| {
        builder.cancel_grace(cancel_grace)
    })
}

fn start_with(
    seed: &Scheduler,
    slots: u32,
    shutdown_grace: Duration,
    more: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
) -> TestWorker {
    let process = process(shutdown_grace);
    let handlers = Handlers::default();
    let worker = more(describe(seed, slots, &handlers)).build().unwrap();
    let its_process = process.clone();
    let running = tokio::spawn(async move { worker.run(&its_process).await });
    TestWorker {
        process,
        handlers,
        running: AbortOnDropHandle::new(running),
    }
}

pub(crate) fn describe(seed: &Scheduler, slots: u32, handlers: &Handlers) -> WorkerBuilder {
    let builder = Worker::builder()
        .schedulers([&seed.address])
        .key("wk_0123456789abcdef_secret")
        .slots(slots);
    handlers.add_to(builder)
}

pub(crate) fn process(shutdown_grace: Duration) -> Process {
    Process {
        name: ServiceName::Worker,
        instance_id: worker_id(),
        registry: Registry::new(),
        spans: SpanSink::disabled(),
        sampler: HeadSampler::new(0.0),
        readiness: Readiness::new(),
        shutdown: CancellationToken::new(),
        shutdown_grace,
        admin_addr: ([127, 0, 0, 1], 0).into(),
    }
}

impl TestWorker {
    /// Returns when the worker has left; it must have been told to.
    pub(crate) async fn gone(self) {
        let ended = tokio::time::timeout(SOON, self.running)
            .await
            .expect("the worker hangs");
        ended.unwrap().unwrap();
    }

    /// The value of a counter or gauge, summed over its labels but the one given.
    pub(crate) fn metric(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let families = self.process.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .expect(name);
        let chosen = family.get_metric().iter().filter(|metric| {
            label.is_none_or(|(name, value)| {
                metric
                    .get_label()
                    .iter()
                    .any(|pair| pair.name() == name && pair.value() == value)
            })
        });
        chosen
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}
