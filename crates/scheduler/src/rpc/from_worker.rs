//! What a worker says, taken off the wire and held to its limits.

use std::time::Duration;

use domain::lane::CheckpointMark;
use domain::{AttemptResult, ExecutionId, Items, Progress, limits};
use proto::v1::checkpoints::Checkpoint;
use proto::v1::{Held, ProgressReport};

use crate::group::{HeldTask, Report, SaidHeld, SentCheckpoint};

pub(super) fn said_held(held: &Held) -> Option<SaidHeld> {
    let id = ExecutionId::from_slice(&held.execution_id)?;
    Some(SaidHeld {
        task: (id, held.fence),
        epoch: held.lane_epoch,
    })
}

/// `None`: a result of something that this version doesn't know, or of no execution at all.
pub(super) fn report_of(result: proto::v1::Result) -> Option<Report> {
    let id = ExecutionId::from_slice(&result.execution_id)?;
    let kind =
        AttemptResult::from_number(result.result).filter(|kind| *kind != AttemptResult::Lost)?;
    let permanent = result.error.as_ref().is_some_and(|error| error.permanent);
    let error = result.error.map(|error| {
        let class = limits::cut_text(&error.class, limits::MAX_ERROR_CLASS_BYTES);
        (
            class,
            limits::cut_text(&error.message, limits::MAX_ERROR_BYTES),
        )
    });
    let success = kind == AttemptResult::Success;
    let mut output = result.output;
    output.truncate(limits::MAX_OUTPUT_BYTES);
    let output_type = limits::cut_text(&result.output_content_type, 127);
    Some(Report {
        id,
        fence: result.fence,
        result: kind,
        permanent,
        put_off: (result.put_off_us > 0).then(|| Duration::from_micros(result.put_off_us)),
        error: error.filter(|_| !success),
        output: (success && !output.is_empty()).then_some((output, output_type)),
        waited_us: result.waited_us,
        ran_us: result.ran_us,
        held_us: result.held_us,
        items: result.items.map(items_in).unwrap_or_default(),
        progress: result.progress.as_ref().map(progress_in),
    })
}

/// `None`: of no execution at all.
pub(super) fn checkpoint_of(sent: Checkpoint) -> Option<SentCheckpoint> {
    let (fence, number) = (sent.fence, sent.number);
    Some(SentCheckpoint {
        id: ExecutionId::from_slice(&sent.execution_id)?,
        mark: CheckpointMark { fence, number },
        state: sent.state,
        progress: sent.progress.as_ref().map(progress_in),
    })
}

/// `None`: of no execution at all, or nothing is said.
pub(super) fn progress_of(report: ProgressReport) -> Option<(HeldTask, Progress)> {
    let id = ExecutionId::from_slice(&report.execution_id)?;
    Some(((id, report.fence), progress_in(&report.progress?)))
}

fn progress_in(said: &proto::v1::Progress) -> Progress {
    Progress::new(said.done, said.total, &said.note)
}

fn items_in(said: proto::v1::Items) -> Items {
    Items::new(said.success, said.failed, said.skipped)
}
