//! The worker of `make chaos`: the library with one handler, which writes down what it does.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use chaos::Witness;
use clap::Parser;
use service::{Process, ServiceArgs, ServiceName};
use worker::Worker;

/// Runs jobs of type `chaos` and writes the begin and the end of each call to a log.
#[derive(Parser, Clone)]
#[command(name = "chaos-worker", version)]
struct Args {
    /// Where to find a first scheduler; several with commas.
    #[arg(long, env = "SCHEDULERS", value_delimiter = ',', required = true)]
    schedulers: Vec<String>,

    /// API key of scope worker.
    #[arg(long, env = "WORKER_KEY", hide_env_values = true)]
    worker_key: String,

    /// How many attempts run at a time.
    #[arg(long, env = "SLOTS", default_value_t = 8)]
    slots: u32,

    /// The log of calls.
    #[arg(long, env = "CALLS_LOG")]
    calls_log: PathBuf,

    /// What every process takes.
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    service::run(ServiceName::Worker, args.service.clone(), |process| {
        work(args, process)
    })
}

async fn work(args: Args, process: Process) -> Result<()> {
    let witness = Witness::open(&args.calls_log, &process.instance_id)?;
    let worker = Worker::builder()
        .schedulers(args.schedulers)
        .key(args.worker_key)
        .slots(args.slots)
        .handler(chaos::JOB_TYPE, witness)
        .build()?;
    tracing::info!(event = "listening", admin_address = %process.admin_addr, "listening");
    Ok(worker.run(&process).await?)
}
