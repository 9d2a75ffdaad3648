//! `make chaos`: see [`chaos::run`].

use std::process::ExitCode;

use chaos::Args;
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let run = async { chaos::run(Args::parse()).await };
    tokio::select! {
        ended = run => match ended {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => {
                println!("FAILED: {why:#}");
                ExitCode::FAILURE
            }
        },
        // What was started is killed when it is dropped.
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
    }
}
