use crate::limits::{MAX_NOTE_BYTES, cut_text};

/// How far a handler says that its attempt is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// So much is done …
    pub done: u64,
    /// … of so much; 0: nobody knows.
    pub total: u64,
    /// What it is at, for people; may be empty.
    pub note: Box<str>,
}

impl Progress {
    /// So much is done of so much. Of the note at most 255 bytes are kept; numbers beyond what a row can hold are cut.
    #[must_use]
    pub fn new(done: u64, total: u64, note: &str) -> Self {
        Self {
            done: stored(done),
            total: stored(total),
            note: cut_text(note, MAX_NOTE_BYTES).into_boxed_str(),
        }
    }
}

/// What a handler says of the items that its attempt worked through.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Items {
    /// Done.
    pub success: u64,
    /// Tried, without success.
    pub failed: u64,
    /// Left out.
    pub skipped: u64,
}

impl Items {
    /// So many, cut to what a row can hold.
    #[must_use]
    pub fn new(success: u64, failed: u64, skipped: u64) -> Self {
        Self {
            success: stored(success),
            failed: stored(failed),
            skipped: stored(skipped),
        }
    }

    /// Whether there were any.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Each count with the name that metrics give it.
    #[must_use]
    pub fn by_status(self) -> [(&'static str, u64); 3] {
        [
            ("success", self.success),
            ("failed", self.failed),
            ("skipped", self.skipped),
        ]
    }
}

/// The database's numbers are signed.
fn stored(count: u64) -> u64 {
    count.min(u64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_worker_says_fits_a_row() {
        let progress = Progress::new(u64::MAX, 7, &"ä\0".repeat(300));
        assert_eq!(progress.done, u64::MAX >> 1);
        assert!(progress.note.len() <= 2 * MAX_NOTE_BYTES && !progress.note.contains('\0'));
        assert_eq!(Items::new(1, u64::MAX, 0).failed, u64::MAX >> 1);
    }
}
