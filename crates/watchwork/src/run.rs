//! From the command line to the exit code.

use std::process::ExitCode;

use crate::args::{Cli, DlqVerb, Verb, WorkerVerb};
use crate::client::Client;
use crate::failure::Failure;
use crate::installation::Installation;
use crate::output::Output;
use crate::verbs::{self, Revision};

/// Does what the command line says, and gives the exit code.
pub async fn run(cli: Cli) -> ExitCode {
    match dispatch(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("watchwork: {}", failure.message);
            }
            failure.exit_code()
        }
    }
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(cli.output);
    let installation = Installation::new(cli.place);
    match cli.verb {
        Verb::Dev(args) => verbs::dev(&output, args).await,
        Verb::Submit(args) => verbs::submit(&output, &installation.client()?, *args).await,
        Verb::Get(args) => verbs::get(&output, &installation.client()?, &args.id).await,
        Verb::List(args) => verbs::list(&output, &installation.client()?, &args).await,
        Verb::Cancel(args) => verbs::cancel(&output, &installation.client()?, args).await,
        Verb::Retry(args) => {
            verbs::revise(&output, &installation.client()?, args.ids, Revision::Retry).await
        }
        Verb::Dlq(verb) => dlq(&output, &installation.client()?, verb).await,
        Verb::Worker(WorkerVerb::List) => {
            verbs::list_workers(&output, &installation.client()?).await
        }
        Verb::Worker(WorkerVerb::Drain(args)) => {
            verbs::drain_worker(&output, &installation.client()?, args).await
        }
        Verb::Watch(args) => verbs::watch(&output, &installation.client()?, args.ids).await,
        Verb::Trace(args) => {
            let store = installation.trace_store()?;
            verbs::trace(&output, &installation.client()?, &store, &args.id).await
        }
    }
}

async fn dlq(output: &Output, client: &Client, verb: DlqVerb) -> Result<(), Failure> {
    match verb {
        DlqVerb::List(args) => verbs::list(output, client, &args.into()).await,
        DlqVerb::Redrive(pick) => {
            verbs::revise_dead_letters(output, client, pick, Revision::Retry).await
        }
        DlqVerb::Discard(pick) => {
            verbs::revise_dead_letters(output, client, pick, Revision::Discard).await
        }
    }
}
