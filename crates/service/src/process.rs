//! The one scaffold of all processes: start, run, drain, flush, end.

use std::fmt::{self, Display};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use prometheus::Registry;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::args::ServiceArgs;
use crate::instance::resolve_instance_id;
use crate::log_line::Identity;
use crate::readiness::Readiness;
use crate::sampler::HeadSampler;
use crate::signals::Signals;
use crate::span::SpanSink;
use crate::span_export::SpanExport;
use crate::{admin, log, process_metrics};

/// The kinds of process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceName {
    /// The stateless edge.
    ApiGateway,
    /// The hub.
    Scheduler,
    /// Runs handlers.
    Worker,
}

impl ServiceName {
    /// All of them, in the order of their values.
    pub(crate) const ALL: [Self; 3] = [Self::ApiGateway, Self::Scheduler, Self::Worker];

    /// The name in logs, traces and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiGateway => "api-gateway",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }

    /// Where its admin port is unless the settings say otherwise.
    pub fn default_admin_port(self) -> u16 {
        match self {
            Self::ApiGateway => 9101,
            Self::Scheduler => 9102,
            Self::Worker => 9103,
        }
    }
}

impl Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a process has around its work. Cheap to clone; all clones are the same process.
#[derive(Clone)]
pub struct Process {
    /// What it is.
    pub name: ServiceName,
    /// Which one it is, in logs, metrics and traces.
    pub instance_id: String,
    /// Everything registered here is on `/metrics`.
    pub registry: Registry,
    /// Where finished spans go.
    pub spans: SpanSink,
    /// Decides which traces are kept from their beginning.
    pub sampler: HeadSampler,
    /// Where the parts of the process report whether they work.
    pub readiness: Readiness,
    /// Cancelled by SIGTERM or SIGINT, or by the process itself; the work must then end within
    /// [`Process::shutdown_grace`].
    pub shutdown: CancellationToken,
    /// How long the work may go on after `shutdown`; then it is dropped.
    pub shutdown_grace: Duration,
    /// Where the admin port listens.
    pub admin_addr: SocketAddr,
}

/// Runs a process from its arguments to its exit code: 0 if `main` ended well.
///
/// Builds the runtime (a thread for each core, or `TOKIO_WORKER_THREADS`), starts log, span
/// exporter, admin port and signal handling, and runs `main` as a task. After a signal `main` has
/// the grace to end; a second signal, or the end of the grace, drops it. Spans are then sent for
/// three seconds at the most, however it ended.
pub fn run<F, Fut>(name: ServiceName, args: ServiceArgs, main: F) -> ExitCode
where
    F: FnOnce(Process) -> Fut,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name} can't start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match Scaffold::start(name, &args).await {
            Ok(scaffold) => scaffold.run(main).await,
            Err(error) => {
                report_failed_start(name, &error);
                ExitCode::FAILURE
            }
        }
    });
    // A blocking task that hangs must not hold the end.
    runtime.shutdown_background();
    code
}

/// How the work ended.
enum End {
    Returned(anyhow::Result<()>),
    Panicked(JoinError),
    GraceOver(Duration),
    SecondSignal(&'static str),
}

/// What stands before `main` runs and after it has ended.
struct Scaffold {
    process: Process,
    signals: Signals,
    export: SpanExport,
}

impl Scaffold {
    async fn start(name: ServiceName, args: &ServiceArgs) -> anyhow::Result<Self> {
        let instance_id = resolve_instance_id(name, args.instance_id.as_deref())?;
        let registry = Registry::new();
        // The log needs the exporter's queue, and the exporter's failure a log.
        let export = SpanExport::start(name, &instance_id, args, &registry);
        let spans = export
            .as_ref()
            .map_or_else(|_| SpanSink::disabled(), |it| it.sink().clone());
        let identity = Identity {
            service: name.as_str(),
            instance_id: instance_id.clone(),
        };
        log::install(identity, args.log_format, &registry, &spans)?;
        let export = export?;

        process_metrics::start(&registry).context("can't register the metrics of the process")?;
        let signals = Signals::listen().context("can't listen for signals")?;
        let readiness = Readiness::new();
        let admin_addr = admin_address(name, args);
        let admin_addr = admin::start(admin_addr, readiness.clone(), registry.clone()).await?;
        let process = Process {
            name,
            instance_id,
            registry,
            spans,
            sampler: HeadSampler::new(args.tracing_sample_rate),
            readiness,
            shutdown: CancellationToken::new(),
            shutdown_grace: args.shutdown_grace,
            admin_addr,
        };
        Ok(Self {
            process,
            signals,
            export,
        })
    }

    async fn run<F, Fut>(mut self, main: F) -> ExitCode
    where
        F: FnOnce(Process) -> Fut,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        tracing::info!(
            event = "started",
            version = process_metrics::VERSION,
            admin_address = %self.process.admin_addr,
            "{} started",
            self.process.name
        );
        let work = tokio::spawn(main(self.process.clone()));
        let end = self.until_end(work).await;
        // Also if it ended by itself: what is still running should know.
        self.process.readiness.drain();
        self.process.shutdown.cancel();
        let code = end.log();
        if !matches!(end, End::SecondSignal(_)) {
            self.export.finish().await;
        }
        code
    }

    async fn until_end(&mut self, mut work: JoinHandle<anyhow::Result<()>>) -> End {
        tokio::select! {
            ended = &mut work => match ended {
                Ok(result) => End::Returned(result),
                Err(error) => End::Panicked(error),
            },
            cut = self.until_cut() => {
                work.abort();
                cut
            }
        }
    }

    /// Tells the process to shut down when it is time, and ends when it had its time.
    async fn until_cut(&mut self) -> End {
        let Process {
            shutdown,
            readiness,
            shutdown_grace,
            ..
        } = &self.process;
        let signal = tokio::select! {
            signal = self.signals.next() => Some(signal),
            () = shutdown.cancelled() => None,
        };
        // In this order: who reads the line finds the process draining.
        readiness.drain();
        tracing::info!(event = "shutdown_requested", signal, "shutting down");
        shutdown.cancel();
        tokio::select! {
            signal = self.signals.next() => End::SecondSignal(signal),
            () = tokio::time::sleep(*shutdown_grace) => End::GraceOver(*shutdown_grace),
        }
    }
}

impl End {
    fn log(&self) -> ExitCode {
        match self {
            Self::Returned(Ok(())) => {
                tracing::info!(event = "stopped", "stopped");
                return ExitCode::SUCCESS;
            }
            Self::Returned(Err(error)) => {
                let error = format!("{error:#}");
                tracing::error!(event = "stopped", error, "stopped by an error");
            }
            Self::Panicked(error) => {
                tracing::error!(event = "stopped", error = %error, "stopped by a panic");
            }
            Self::GraceOver(grace) => tracing::error!(
                event = "stopped",
                grace = %humantime::format_duration(*grace),
                "cut off: the shutdown took longer than SHUTDOWN_GRACE"
            ),
            Self::SecondSignal(signal) => {
                tracing::error!(event = "stopped", signal, "cut off by a second signal");
            }
        }
        ExitCode::FAILURE
    }
}

/// In the log, or, if it failed before there was one, to standard error.
fn report_failed_start(name: ServiceName, error: &anyhow::Error) {
    if tracing::dispatcher::has_been_set() {
        let error = format!("{error:#}");
        tracing::error!(event = "start_failed", error, "{name} can't start");
    } else {
        eprintln!("{name} can't start: {error:#}");
    }
}

fn admin_address(name: ServiceName, args: &ServiceArgs) -> SocketAddr {
    let every_interface = SocketAddr::from((Ipv4Addr::UNSPECIFIED, name.default_admin_port()));
    args.metrics_addr.unwrap_or(every_interface)
}
