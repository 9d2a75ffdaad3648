use futures::{StreamExt as _, stream};
use proto::v1::ExecutionState;
use serde_json::json;
use tonic::{Code, Status};

use crate::args::CancelArgs;
use crate::client::{Client, is_final};
use crate::execution_view::state_name;
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// Cancellations that are under way at a time: so many that what waits is cancelled before the slots of what runs
/// come free for it.
const AT_A_TIME: usize = 256;

/// Cancels executions, each by itself, and waits for the ends of those that run if asked to.
pub(crate) async fn cancel(
    output: &Output,
    client: &Client,
    args: CancelArgs,
) -> Result<(), Failure> {
    let mut report = Report::new(output);
    let mut running = Vec::new();
    // The last first, since the first are the likeliest to run.
    let cancellations = args.ids.into_iter().rev().map(async |id| {
        let state = client.cancel(&id).await;
        (id, state)
    });
    let cancellations = stream::iter(cancellations).buffered(AT_A_TIME);
    let cancelled: Vec<(String, Result<ExecutionState, Status>)> = cancellations.collect().await;
    for (id, state) in cancelled.into_iter().rev() {
        match state {
            Ok(state) if is_final(state) => report.ended(&id, state)?,
            Ok(state) => {
                report.told(&id, state, args.wait)?;
                running.push(id);
            }
            Err(status) => {
                let state = end_before(client, &id, &status).await;
                report.refused(&id, state, &status)?;
            }
        }
    }
    if args.wait {
        wait_for(client, running, &mut report).await?;
    }
    report.into_result()
}

/// Where an execution that came to another end before stands; `None` if that isn't why, or isn't known.
async fn end_before(client: &Client, id: &str, status: &Status) -> Option<ExecutionState> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    let execution = client.get(id).await.ok()?;
    is_final(execution.state()).then(|| execution.state())
}

/// Whether it may have happened though no answer says so.
fn is_in_doubt(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled
    )
}

async fn wait_for(
    client: &Client,
    ids: Vec<String>,
    report: &mut Report<'_>,
) -> Result<(), Failure> {
    let mut changes = client.watch(ids);
    while let Some(change) = changes.next().await? {
        if is_final(change.state()) {
            report.ended(&change.execution_id, change.state())?;
        }
    }
    Ok(())
}

/// Says of each execution what became of it, and in the end how all of it went.
struct Report<'a> {
    output: &'a Output,
    /// The kind of the bad ends so far, if they are of one kind.
    bad: Option<Kind>,
}

impl<'a> Report<'a> {
    fn new(output: &'a Output) -> Self {
        Self { output, bad: None }
    }

    /// It runs, and its worker is told to stop. Who waits gets its end told too: for programs, which
    /// get one value of each, that is enough.
    fn told(&self, id: &str, state: ExecutionState, waits: bool) -> Result<(), Failure> {
        let line = match waits {
            true if self.output.is_json() => return Ok(()),
            true => "its worker is told to stop".to_owned(),
            false => format!("its worker is told to stop; watch it with `watchwork watch {id}`"),
        };
        self.say(id, state, &line)
    }

    /// It is over.
    fn ended(&mut self, id: &str, state: ExecutionState) -> Result<(), Failure> {
        if state == ExecutionState::Cancelled {
            return self.say(id, state, "cancelled");
        }
        self.note(Kind::BadEnd);
        self.say(id, state, &format!("ended as {}", state_name(state)))
    }

    /// It was not cancelled; `state` if that is why.
    fn refused(
        &mut self,
        id: &str,
        state: Option<ExecutionState>,
        status: &Status,
    ) -> Result<(), Failure> {
        let why = match state {
            Some(state) => format!("it is {} already", state_name(state)),
            None if is_in_doubt(status) => format!(
                "{}; it may be cancelled all the same: cancelling it again does no harm",
                status.message()
            ),
            None => status.message().to_owned(),
        };
        self.note(Failure::from(status.clone()).kind);
        if self.output.is_json() {
            let state = state.map(state_name);
            let value = json!({"execution_id": id, "state": state, "error": why});
            return Ok(self.output.json(&value)?);
        }
        eprintln!("watchwork: {id}: {why}");
        Ok(())
    }

    fn say(&self, id: &str, state: ExecutionState, line: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            let value = json!({"execution_id": id, "state": state_name(state)});
            return Ok(self.output.json(&value)?);
        }
        Ok(self.output.text(&format!("{id}  {line}\n"))?)
    }

    fn note(&mut self, kind: Kind) {
        let is_other = self.bad.is_some_and(|before| before != kind);
        self.bad = Some(if is_other { Kind::Failed } else { kind });
    }

    /// All was said already but the exit code.
    fn into_result(self) -> Result<(), Failure> {
        self.bad.map_or(Ok(()), |kind| Err(Failure::new(kind, "")))
    }
}
