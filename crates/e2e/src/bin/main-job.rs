//! `make run`: the main job, shown from end to end. See [`e2e::main_job`].

use std::process::ExitCode;

use clap::Parser;

/// Brings everything up on this machine, runs work on the files of this folder, kills a worker and a
/// scheduler in the middle, and accounts for every execution. Takes no arguments.
#[derive(Parser)]
#[command(name = "main-job", version)]
struct Args {}

#[tokio::main]
async fn main() -> ExitCode {
    let Args {} = Args::parse();
    e2e::main_job::run().await
}
