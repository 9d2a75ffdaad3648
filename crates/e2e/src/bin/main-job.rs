//! `make run`: the main job, shown from end to end. See [`e2e::main_job`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    e2e::main_job::run().await
}
