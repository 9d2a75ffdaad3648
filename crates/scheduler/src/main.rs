//! The scheduler's binary.

use std::process::ExitCode;

use clap::Parser;
use scheduler::Args;
use service::ServiceName;

fn main() -> ExitCode {
    let args = Args::parse();
    let service = args.service.clone();
    service::run(ServiceName::Scheduler, service, |process| {
        scheduler::serve(process, args)
    })
}
