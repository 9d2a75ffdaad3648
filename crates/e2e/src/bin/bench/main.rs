//! `bench`: what Watchwork does on this machine, beside what plain SQL does on it. Asserts nothing about
//! speed; prints a report and keeps it in `target/bench/`.
//!
//! | module | what it does |
//! |---|---|
//! | `args`, `figure` | what can be asked for, what is measured |
//! | `bed` | PostgreSQL and the processes under test |
//! | `limits` | the raw limits, by pgbench |
//! | `caller` | submits through the gateway |
//! | `backlog`, `sustained`, `latency` | the parts |
//! | `steady` | half the highest rate for long, for the memory that everybody takes |
//! | `processes`, `totals` | processor time, memory; how many are finished, by the database's word |
//! | `rounds`, `report`, `machine` | repeats, and tells |

mod args;
mod backlog;
mod bed;
mod caller;
mod figure;
mod latency;
mod limits;
mod machine;
mod processes;
mod report;
mod rounds;
mod steady;
mod sustained;
mod totals;

use std::process::ExitCode;

use clap::Parser;

use args::Args;

/// One thread: it is the load, and should cost little beside what it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match rounds::run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
