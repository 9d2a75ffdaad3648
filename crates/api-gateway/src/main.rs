//! The binary of the gateway.

use std::process::ExitCode;

use api_gateway::Args;
use clap::Parser as _;
use service::ServiceName;

fn main() -> ExitCode {
    let args = Args::parse();
    let service = args.service.clone();
    service::run(ServiceName::ApiGateway, service, |process| {
        api_gateway::run(process, args)
    })
}
