//! The worker with the built-in job types.

use std::process::ExitCode;

use clap::Parser;
use service::ServiceName;
use worker::{GroupGuard, WorkerArgs};

fn main() -> ExitCode {
    if GroupGuard::is_asked_for() {
        return GroupGuard::watch();
    }
    let args = WorkerArgs::parse();
    service::run(ServiceName::Worker, args.service.clone(), |process| {
        args.work(process)
    })
}
