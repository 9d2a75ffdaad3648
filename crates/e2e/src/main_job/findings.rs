//! Whether every acknowledged execution came to the right end, once.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use proto::v1::{AttemptResult, Execution, ExecutionState};
use watchwork::client::Client;

use super::tasks::{Expected, Kind, Task};
use crate::{HandedIn, Ledger};

const ASKED_TOGETHER: usize = 16;

/// An execution and its task.
pub(super) struct Finding<'a> {
    pub(super) task: &'a Task,
    pub(super) execution: Execution,
}

/// How many of a kind ended how.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Outcomes {
    pub(super) all: usize,
    pub(super) succeeded: usize,
    /// Failed attempts came first, and then the end.
    pub(super) retried: usize,
    /// Lost with their worker and run again.
    pub(super) taken_back: usize,
    pub(super) failed: usize,
    pub(super) dead_lettered: usize,
}

/// Asks the API for every execution.
///
/// # Errors
/// The API doesn't know one, or can't be asked.
pub(super) async fn find_all<'a>(
    client: &Client,
    tasks: &'a [Task],
    handed_in: &[HandedIn],
) -> Result<Vec<Finding<'a>>> {
    let asked = tasks.iter().zip(handed_in).map(|(task, one)| async move {
        let execution = client.get(&one.id).await;
        let execution = execution.with_context(|| format!("can't get {}", one.id))?;
        Ok::<_, anyhow::Error>(Finding { task, execution })
    });
    stream::iter(asked)
        .buffered(ASKED_TOGETHER)
        .try_collect()
        .await
}

/// What is not as it must be, one line for each; empty if all is well.
///
/// # Errors
/// The database can't be read.
pub(super) async fn complaints(findings: &[Finding<'_>], ledger: &Ledger) -> Result<Vec<String>> {
    let mut complaints: Vec<String> = findings.iter().filter_map(Finding::complaint).collect();
    let ids = findings
        .iter()
        .map(|finding| finding.execution.execution_id.as_str());
    for (id, count) in ledger.final_outcomes(ids).await? {
        if count != 1 {
            complaints.push(format!("{id} has {count} final outcomes in the database"));
        }
    }
    Ok(complaints)
}

/// The outcomes by kind.
pub(super) fn outcomes(findings: &[Finding<'_>]) -> BTreeMap<Kind, Outcomes> {
    let mut outcomes: BTreeMap<Kind, Outcomes> = BTreeMap::new();
    for finding in findings {
        outcomes.entry(finding.task.kind).or_default().add(finding);
    }
    outcomes
}

impl Outcomes {
    fn add(&mut self, finding: &Finding<'_>) {
        self.all += 1;
        self.retried += usize::from(finding.failures() > 0 && finding.attempts() > 1);
        self.taken_back += usize::from(finding.count(AttemptResult::Lost) > 0);
        match finding.execution.state() {
            ExecutionState::Succeeded => self.succeeded += 1,
            ExecutionState::Failed => self.failed += 1,
            ExecutionState::DeadLettered => self.dead_lettered += 1,
            _ => {}
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            all: self.all + other.all,
            succeeded: self.succeeded + other.succeeded,
            retried: self.retried + other.retried,
            taken_back: self.taken_back + other.taken_back,
            failed: self.failed + other.failed,
            dead_lettered: self.dead_lettered + other.dead_lettered,
        }
    }
}

impl Finding<'_> {
    /// What is wrong with it; none if nothing is.
    fn complaint(&self) -> Option<String> {
        let Execution {
            execution_id,
            output,
            ..
        } = &self.execution;
        let state = self.execution.state();
        let successes = self.count(AttemptResult::Success);
        let right = match &self.task.expected {
            Expected::DeadLetter(attempts) => {
                state == ExecutionState::DeadLettered && self.failures() == *attempts
            }
            Expected::Failure => state == ExecutionState::Failed && self.failures() == 1,
            _ => state == ExecutionState::Succeeded && successes == 1,
        };
        let what = self.task.kind.label();
        if !right {
            let results: Vec<&str> = self
                .execution
                .attempts
                .iter()
                .map(|attempt| attempt.result().as_str_name())
                .collect();
            return Some(format!(
                "{execution_id} ({what}) is {} after {results:?}",
                state.as_str_name()
            ));
        }
        let said = || String::from_utf8_lossy(output);
        let right_output = match &self.task.expected {
            Expected::Output(expected) => output[..] == expected[..],
            Expected::Words(words) => said().split_whitespace().eq(words.iter()),
            _ => true,
        };
        (!right_output).then(|| {
            let begin: String = said().chars().take(200).collect();
            format!("{execution_id} ({what}) gave a wrong output: {begin:?}")
        })
    }

    pub(super) fn count(&self, result: AttemptResult) -> usize {
        let attempts = self.execution.attempts.iter();
        attempts
            .filter(|attempt| attempt.result() == result)
            .count()
    }

    /// Attempts that ended with an error of the work itself.
    pub(super) fn failures(&self) -> usize {
        let kinds = [
            AttemptResult::Error,
            AttemptResult::Panic,
            AttemptResult::Timeout,
        ];
        kinds.into_iter().map(|result| self.count(result)).sum()
    }

    pub(super) fn attempts(&self) -> usize {
        self.execution.attempts.len()
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Attempt;

    use super::*;
    use crate::submission;

    fn complains(expected: Expected, state: ExecutionState, results: &[AttemptResult]) -> bool {
        let attempt = |result: &AttemptResult| Attempt {
            result: *result as i32,
            ..Attempt::default()
        };
        let execution = Execution {
            state: state as i32,
            attempts: results.iter().map(attempt).collect(),
            output: "2 a\n".into(),
            ..Execution::default()
        };
        let task = Task {
            kind: Kind::Count,
            submission: submission("noop", &serde_json::json!({})),
            expected,
        };
        let task = &task;
        Finding { task, execution }.complaint().is_some()
    }

    #[test]
    fn what_is_missing_double_or_wrong_is_complained_about() {
        use AttemptResult::{Error, Lost, Success};
        use ExecutionState::{DeadLettered, Running, Succeeded};
        let words = |words: [&str; 2]| Expected::Words(words.map(str::to_owned).to_vec());
        let right = || words(["2", "a"]);
        assert!(!complains(right(), Succeeded, &[Lost, Error, Success]));
        assert!(complains(right(), Running, &[Lost]), "it never ended");
        assert!(complains(right(), Succeeded, &[Success, Success]), "twice");
        assert!(
            complains(words(["3", "a"]), Succeeded, &[Success]),
            "a wrong output"
        );
        assert!(complains(right(), DeadLettered, &[Error]), "a wrong end");
        assert!(!complains(
            Expected::DeadLetter(2),
            DeadLettered,
            &[Error, Lost, Error]
        ));
        assert!(complains(
            Expected::DeadLetter(3),
            DeadLettered,
            &[Error, Error]
        ));
    }
}
