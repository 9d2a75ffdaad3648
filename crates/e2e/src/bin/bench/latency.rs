//! How long it takes from a Submit call to the handler, at a rate that nobody feels. The handler runs in
//! this process, on a worker built with the library, so that one clock times both ends.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use proto::v1::Submission;
use service::{HeadSampler, Process, Readiness, ServiceName, SpanSink};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use worker::{Context, Handler, HandlerError, Output, Worker};

use crate::bed::Bed;
use crate::caller::{Callers, submission};
use crate::figure::{Figure, Findings};

/// Only our own worker has a handler of this type.
const TYPE: &str = "bench-entry";
const EVERY: Duration = Duration::from_millis(10);
/// Calls before those that count: connections, caches, the type's number.
const WARM_UP: usize = 50;
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);

/// When each execution's handler was entered, by its place.
type Entries = Arc<Vec<OnceLock<Instant>>>;

/// Calls Submit 100 times a second, `calls` times, whether or not the earlier ones are answered.
pub(crate) async fn measure(
    bed: &mut Bed,
    callers: &Callers,
    calls: usize,
    findings: &mut Findings,
) -> Result<()> {
    let entries: Entries = Arc::new((0..WARM_UP + calls).map(|_| OnceLock::new()).collect());
    let (process, working) = start_worker(bed, Arc::clone(&entries)).await?;
    let submitted = submit_all(callers, entries.len()).await?;
    wait_for_all(&entries).await?;
    bed.tally.wait_until_empty().await?;
    process.shutdown.cancel();
    working.await??;
    let (mut to_entry, mut to_answer) = (Vec::new(), Vec::new());
    for (entry, (called, answered)) in entries.iter().zip(submitted).skip(WARM_UP) {
        let entered = *entry
            .get()
            .context("a handler that was entered isn't any more")?;
        to_entry.push(entered.saturating_duration_since(called));
        to_answer.push(answered.saturating_duration_since(called));
    }
    findings.add_times(Figure::EntryP50, Figure::EntryP99, to_entry);
    findings.add_times(Figure::AnswerP50, Figure::AnswerP99, to_answer);
    Ok(())
}

/// When each call began and ended.
async fn submit_all(callers: &Callers, count: usize) -> Result<Vec<(Instant, Instant)>> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = Vec::with_capacity(count);
    for place in 0..count {
        ticks.tick().await;
        let callers = callers.clone();
        calls.push(tokio::spawn(async move {
            let correlation_id = place.to_string();
            let submission = Submission {
                correlation_id,
                ..submission(place as u64, TYPE)
            };
            let begin = Instant::now();
            callers.submit(place, submission).await?;
            anyhow::Ok((begin, Instant::now()))
        }));
    }
    try_join_all(calls).await?.into_iter().collect()
}

async fn wait_for_all(entries: &Entries) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while entries.iter().any(|entry| entry.get().is_none()) {
        let missing = entries.iter().filter(|entry| entry.get().is_none()).count();
        ensure!(
            Instant::now() < deadline,
            "{missing} handlers were not entered in {PATIENCE:?}"
        );
        sleep(LOOK).await;
    }
    Ok(())
}

/// Notes when it is entered.
struct Stamp(Entries);

#[async_trait]
impl Handler for Stamp {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, context: Context) -> Result<Output, HandlerError> {
        let now = Instant::now();
        let place: usize = context.correlation_id().parse()?;
        if let Some(entry) = self.0.get(place) {
            // A second attempt changes nothing.
            let _ = entry.set(now);
        }
        Ok(Output::none())
    }
}

/// Starts our own worker, and waits until it is ready.
async fn start_worker(
    bed: &Bed,
    entries: Entries,
) -> Result<(Process, JoinHandle<Result<(), worker::RunError>>)> {
    let members = bed.cluster.members();
    let addresses = members
        .iter()
        .filter(|member| member.service() == cluster::Service::Scheduler);
    let worker = Worker::builder()
        .schedulers(addresses.filter_map(|member| Some(format!("http://{}", member.address()?))))
        .key(bed.cluster.worker_key())
        .handler(TYPE, Stamp(entries))
        .slots(64)
        .build()?;
    let process = Process {
        name: ServiceName::Worker,
        instance_id: "worker-of-the-bench".to_owned(),
        registry: prometheus::Registry::new(),
        spans: SpanSink::disabled(),
        sampler: HeadSampler::new(0.0),
        readiness: Readiness::new(),
        shutdown: CancellationToken::new(),
        shutdown_grace: Duration::from_secs(10),
        admin_addr: ([127, 0, 0, 1], 0).into(),
    };
    let scaffold = process.clone();
    let working = tokio::spawn(async move { worker.run(&scaffold).await });
    let deadline = Instant::now() + PATIENCE;
    while let Err(reason) = process.readiness.check() {
        ensure!(
            Instant::now() < deadline,
            "the bench's own worker isn't ready: {reason}"
        );
        sleep(LOOK).await;
    }
    Ok((process, working))
}
