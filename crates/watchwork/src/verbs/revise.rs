//! What somebody does to executions that are over: `retry`, `dlq redrive`, `dlq discard`.

use futures::{StreamExt as _, stream};
use proto::v1::ExecutionState;
use serde_json::json;
use tonic::Status;

use super::list::Pages;
use crate::args::{ListArgs, PickArgs, State};
use crate::client::Client;
use crate::execution_view::state_name;
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// Calls that are under way at a time.
const AT_A_TIME: usize = 64;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Revision {
    Retry,
    /// The same for nothing but dead letters.
    Redrive,
    Discard,
}

impl Revision {
    fn done(self) -> &'static str {
        match self {
            Self::Retry | Self::Redrive => "runs again",
            Self::Discard => "discarded",
        }
    }

    async fn of(self, client: &Client, id: &str) -> Result<ExecutionState, Status> {
        match self {
            Self::Retry => client.retry(id).await,
            Self::Redrive => {
                let state = client.get(id).await?.state();
                if state != ExecutionState::DeadLettered {
                    return Err(no_dead_letter(state));
                }
                client.retry(id).await
            }
            Self::Discard => client.discard(id).await,
        }
    }
}

/// Revises executions by their ids, and says of each what became of it.
pub(crate) async fn revise(
    output: &Output,
    client: &Client,
    ids: Vec<String>,
    revision: Revision,
) -> Result<(), Failure> {
    let mut report = Report::new(output, revision, true);
    report.revise(client, ids).await?;
    report.into_result()
}

/// Revises the dead letters that are meant, and says how many there were.
pub(crate) async fn revise_dead_letters(
    output: &Output,
    client: &Client,
    pick: PickArgs,
    revision: Revision,
) -> Result<(), Failure> {
    if !pick.ids.is_empty() {
        let revision = match revision {
            Revision::Retry => Revision::Redrive,
            other => other,
        };
        return revise(output, client, pick.ids, revision).await;
    }
    let list = ListArgs {
        queue: pick.queue,
        states: vec![State::DeadLettered],
        job_type: pick.job_type,
        limit: pick.limit.unwrap_or(domain::limits::DEFAULT_PAGE),
        all: pick.limit.is_none(),
        watch: false,
        without_discarded: true,
    };
    let mut pages = Pages::new(client, &list);
    let mut report = Report::new(output, revision, false);
    while let Some(page) = pages.next().await? {
        let ids = page.into_iter().map(|summary| summary.execution_id);
        report.revise(client, ids.collect()).await?;
    }
    report.sum_up()?;
    report.into_result()
}

fn no_dead_letter(state: ExecutionState) -> Status {
    let state = state_name(state);
    Status::failed_precondition(format!(
        "it is {state} and no dead letter; `watchwork retry` has whatever failed or was cancelled run again"
    ))
}

/// Says of each execution what became of it, and in the end how all of it went.
struct Report<'a> {
    output: &'a Output,
    revision: Revision,
    /// Each is told of to people too, not their number alone.
    is_told_singly: bool,
    done: usize,
    /// The kind of the failures so far, if they are of one kind.
    bad: Option<Kind>,
}

impl<'a> Report<'a> {
    fn new(output: &'a Output, revision: Revision, is_told_singly: bool) -> Self {
        Self {
            output,
            revision,
            is_told_singly,
            done: 0,
            bad: None,
        }
    }

    async fn revise(&mut self, client: &Client, ids: Vec<String>) -> Result<(), Failure> {
        let revision = self.revision;
        let calls = ids.into_iter().map(async |id| {
            let state = revision.of(client, &id).await;
            (id, state)
        });
        let mut answers = std::pin::pin!(stream::iter(calls).buffered(AT_A_TIME));
        while let Some((id, answer)) = answers.next().await {
            match answer {
                Ok(state) => self.done(&id, state)?,
                Err(status) => self.refused(&id, status)?,
            }
        }
        Ok(())
    }

    fn done(&mut self, id: &str, state: ExecutionState) -> Result<(), Failure> {
        self.done += 1;
        if self.output.is_json() {
            let value = json!({"execution_id": id, "state": state_name(state)});
            return Ok(self.output.json(&value)?);
        }
        if self.is_told_singly {
            self.output
                .text(&format!("{id}  {}\n", self.revision.done()))?;
        }
        Ok(())
    }

    fn refused(&mut self, id: &str, status: Status) -> Result<(), Failure> {
        let why = status.message().to_owned();
        let kind = Failure::from(status).kind;
        let is_other = self.bad.is_some_and(|before| before != kind);
        self.bad = Some(if is_other { Kind::Failed } else { kind });
        if self.output.is_json() {
            let value = json!({"execution_id": id, "error": why});
            return Ok(self.output.json(&value)?);
        }
        eprintln!("watchwork: {id}: {why}");
        Ok(())
    }

    fn sum_up(&self) -> Result<(), Failure> {
        if self.output.is_json() {
            return Ok(());
        }
        let line = match (self.done, self.revision) {
            (0, _) if self.bad.is_none() => "there is no such dead letter\n".to_owned(),
            (1, Revision::Retry | Revision::Redrive) => "1 dead letter runs again\n".to_owned(),
            (done, Revision::Retry | Revision::Redrive) => {
                format!("{done} dead letters run again\n")
            }
            (1, Revision::Discard) => "1 dead letter discarded\n".to_owned(),
            (done, Revision::Discard) => format!("{done} dead letters discarded\n"),
        };
        Ok(self.output.text(&line)?)
    }

    fn into_result(self) -> Result<(), Failure> {
        match self.bad {
            Some(kind) => Err(Failure::new(kind, "")),
            None => Ok(()),
        }
    }
}
