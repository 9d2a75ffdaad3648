//! The handler of the chaos workers: does nothing but take its time, and writes down that it does.

use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use worker::{Context, Handler, HandlerError, Json, Output};

use crate::clock;
use crate::history::{CallLine, How, Step};
use crate::journal::Journal;

/// The job type that [`Witness`] runs.
pub const JOB_TYPE: &str = "chaos";

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// How long each call takes, in milliseconds.
    pub ms: u64,
    /// How many attempts fail before one succeeds.
    pub failures: u32,
    /// Whether its failure is for good.
    pub permanent: bool,
    /// Before this time, by [`clock::now`], a call puts itself off.
    pub not_before: clock::Micros,
}

/// By how much a call puts itself off.
const SNOOZE: Duration = Duration::from_millis(300);

/// The handler: each call's begin and end is a line of a log.
#[derive(Debug)]
pub struct Witness {
    journal: Arc<Journal>,
    worker: String,
    incarnation: clock::Micros,
}

impl Witness {
    /// Writes to the log at `path` in the name of `worker`.
    ///
    /// # Errors
    /// The log can't be opened.
    pub fn open(path: &Path, worker: &str) -> Result<Self> {
        Ok(Self {
            journal: Arc::new(Journal::open(path)?),
            worker: worker.to_owned(),
            incarnation: clock::now(),
        })
    }

    fn begin(&self, context: &Context) -> Result<Call> {
        let line = CallLine {
            at: clock::now(),
            execution: context.execution_id().into(),
            fence: context.fence(),
            attempt: context.attempt(),
            worker: self.worker.clone(),
            pid: process::id(),
            incarnation: self.incarnation,
            step: Step::Begin,
        };
        self.journal.write(&line)?;
        Ok(Call {
            journal: Arc::clone(&self.journal),
            line,
            how: How::Dropped,
        })
    }
}

/// A call under way. However it goes, its end is written: if the worker breaks it off, it is dropped.
struct Call {
    journal: Arc<Journal>,
    line: CallLine,
    how: How,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.line.at = clock::now();
        self.line.step = Step::End { how: self.how };
        // Nobody is there to hear of an error; the checker misses the line.
        let _ = self.journal.write(&self.line);
    }
}

#[async_trait]
impl Handler for Witness {
    type Payload = Json<Work>;

    async fn run(&self, Json(work): Json<Work>, context: Context) -> Result<Output, HandlerError> {
        let begun = self.begin(&context);
        let mut call = begun.map_err(|why| HandlerError::new("no_log", format!("{why:#}")))?;
        if clock::now() < work.not_before {
            call.how = How::Snoozed;
            return Err(HandlerError::snooze(SNOOZE));
        }
        sleep(Duration::from_millis(work.ms)).await;
        if context.attempt() > work.failures {
            call.how = How::Success;
            return Ok(Output::none());
        }
        call.how = How::Error;
        let error = HandlerError::new("told_to_fail", "failed as it was told to");
        Err(match work.permanent {
            true => error.permanent(),
            false => error,
        })
    }
}
