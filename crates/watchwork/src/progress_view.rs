//! How far an execution is, what it has saved and counted, as it is shown.

use proto::v1::{Checkpoint, Items, Progress};
use serde::Serialize;

use crate::text;

#[derive(Serialize)]
pub(crate) struct ProgressView<'a> {
    done: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'a str,
}

#[derive(Serialize)]
pub(crate) struct CheckpointView<'a> {
    fence: u64,
    number: u64,
    size: u64,
    saved_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressView<'a>>,
}

#[derive(Serialize)]
pub(crate) struct ItemsView {
    success: u64,
    failed: u64,
    skipped: u64,
}

impl<'a> From<&'a Progress> for ProgressView<'a> {
    fn from(progress: &'a Progress) -> Self {
        Self {
            done: progress.done,
            total: (progress.total > 0).then_some(progress.total),
            note: &progress.note,
        }
    }
}

impl<'a> From<&'a Checkpoint> for CheckpointView<'a> {
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Self {
            fence: checkpoint.fence,
            number: checkpoint.number,
            size: checkpoint.size,
            saved_at: checkpoint.saved_at.as_ref().and_then(text::timestamp),
            progress: checkpoint.progress.as_ref().map(ProgressView::from),
        }
    }
}

impl From<Items> for ItemsView {
    fn from(items: Items) -> Self {
        Self {
            success: items.success,
            failed: items.failed,
            skipped: items.skipped,
        }
    }
}

/// `30 of 100 (30 %), counting`.
pub(crate) fn progress(progress: &Progress) -> String {
    let Progress { done, total, note } = progress;
    let share = match total {
        0 => format!("{done} done"),
        total => {
            let percent = u128::from(*done) * 100 / u128::from(*total);
            format!("{done} of {total} ({percent} %)")
        }
    };
    match note.as_str() {
        "" => share,
        note => format!("{share}, {}", text::one_line(note, 80)),
    }
}

/// `2 bytes at 2026-…, by the attempt of fence 7`.
pub(crate) fn checkpoint(checkpoint: &Checkpoint) -> String {
    let Checkpoint { size, fence, .. } = checkpoint;
    let at = checkpoint.saved_at.as_ref().and_then(text::timestamp);
    let at = at.unwrap_or_default();
    format!("{size} bytes at {at}, by the attempt of fence {fence}")
}

/// `10 success, 1 failed, 0 skipped`.
pub(crate) fn items_counted(items: Items) -> String {
    let Items {
        success,
        failed,
        skipped,
    } = items;
    format!("{success} success, {failed} failed, {skipped} skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_share_where_the_whole_is_known() {
        let of = |done, total, note: &str| {
            progress(&Progress {
                done,
                total,
                note: note.to_owned(),
            })
        };
        assert_eq!(of(30, 100, "counting"), "30 of 100 (30 %), counting");
        assert_eq!(of(30, 0, ""), "30 done");
    }
}
