//! The binary of the command line.

use std::process::ExitCode;

use clap::Parser as _;
use watchwork::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => watchwork::run(cli).await,
        Err(error) => {
            // Nobody is left to be told if this can't be written.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}
