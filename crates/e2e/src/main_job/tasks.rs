//! The work: what is handed in, and what must come out.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use proto::v1::Submission;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::input::File;
use crate::{retry_policy, submission};

const MARKER_PROGRAM: &str = r#"BEGIN {
    if ((getline line < marker) > 0) { print line; exit 0 }
    print "made by the attempt before" > marker
    exit 75
}"#;
const FIRST_BACKOFF: Duration = Duration::from_millis(400);
/// Output beyond 64 KiB is cut.
const LARGEST_SORTED: usize = 48 << 10;

/// What kind of work it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Checksum,
    Count,
    Search,
    Sort,
    Sleep,
    /// A command that works once its first attempt has left something behind.
    SecondTry,
    /// Told to fail once or twice.
    FailAtFirst,
    /// A command that can't succeed and isn't given up before its budget is spent.
    Hopeless,
    /// A command that doesn't exist.
    NoSuchProgram,
}

/// What must come out.
#[derive(Debug)]
pub(super) enum Expected {
    /// Success with this output.
    Output(Vec<u8>),
    /// Success with an output of these words.
    Words(Vec<String>),
    /// Success.
    Success,
    /// So many failed attempts, then the dead letter queue.
    DeadLetter(usize),
    /// A failure for good.
    Failure,
}

/// One piece of work.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) kind: Kind,
    pub(super) submission: Submission,
    pub(super) expected: Expected,
}

impl Kind {
    /// As people read it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Checksum => "checksums: sha256sum FILE",
            Self::Count => "lines and words: wc -l -w FILE",
            Self::Search => "searches: grep -c fn FILE",
            Self::Sort => "distinct lines: sort -u FILE",
            Self::Sleep => "sleep for about a second",
            Self::SecondTry => "a command that fails at first: awk",
            Self::FailAtFirst => "told to fail once or twice",
            Self::Hopeless => "a command that always fails: cat",
            Self::NoSuchProgram => "a program that does not exist",
        }
    }
}

/// About 400 pieces of work on these files, mixed. Commands run in `root` and leave what they make
/// in `scratch`.
pub(super) fn tasks(files: &[File], root: &Path, scratch: &Path) -> Vec<Task> {
    let commands = Commands { root };
    let ascii = || {
        files
            .iter()
            .filter(|file| file.is_ascii() && !file.bytes.is_empty())
    };
    let searched = files.iter().filter(|file| lines_with_fn(file) > 0);
    let sorted = ascii().filter(|file| file.bytes.len() <= LARGEST_SORTED);
    mix(vec![
        spread(files.iter(), 150)
            .map(|file| commands.checksum(file))
            .collect(),
        spread(ascii(), 70)
            .map(|file| commands.count(file))
            .collect(),
        spread(searched, 50)
            .map(|file| commands.search(file))
            .collect(),
        spread(sorted, 30).map(|file| commands.sort(file)).collect(),
        (0..64)
            .map(|number| sleep(700 + number % 8 * 100))
            .collect(),
        (0..18)
            .map(|number| commands.second_try(scratch, number))
            .collect(),
        (0..15)
            .map(|number| fail_at_first(1 + number % 2))
            .collect(),
        vec![commands.hopeless(scratch), commands.no_such_program()],
    ])
}

/// Evenly chosen; all if there are no more.
fn spread<'a>(
    files: impl Iterator<Item = &'a File>,
    most: usize,
) -> impl Iterator<Item = &'a File> {
    let files: Vec<&File> = files.collect();
    let count = files.len().min(most);
    (0..count).map(move |index| files[index * files.len() / count])
}

/// Every kind at an even pace from the first to the last.
fn mix(kinds: Vec<Vec<Task>>) -> Vec<Task> {
    let mut placed: Vec<(usize, Task)> = Vec::new();
    for tasks in kinds {
        let count = tasks.len();
        let place = |index: usize| (2 * index + 1) * 1_000_000 / (2 * count);
        placed.extend(
            tasks
                .into_iter()
                .enumerate()
                .map(|(index, task)| (place(index), task)),
        );
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, task)| task).collect()
}

/// Makes submissions of type `command`.
struct Commands<'a> {
    root: &'a Path,
}

impl Commands<'_> {
    fn checksum(&self, file: &File) -> Task {
        let sum = hex::encode(Sha256::digest(&file.bytes));
        let expected = Expected::Words(vec![sum, file.path.clone()]);
        self.task(Kind::Checksum, &["sha256sum", &file.path], expected)
    }

    fn count(&self, file: &File) -> Task {
        let lines = file.bytes.iter().filter(|byte| **byte == b'\n').count();
        let words = file.bytes.split(u8::is_ascii_whitespace);
        let words = words.filter(|word| !word.is_empty()).count();
        let expected = vec![lines.to_string(), words.to_string(), file.path.clone()];
        self.task(
            Kind::Count,
            &["wc", "-l", "-w", &file.path],
            Expected::Words(expected),
        )
    }

    fn search(&self, file: &File) -> Task {
        let expected = Expected::Words(vec![lines_with_fn(file).to_string()]);
        self.task(Kind::Search, &["grep", "-c", "fn", &file.path], expected)
    }

    fn sort(&self, file: &File) -> Task {
        let lines: BTreeSet<&[u8]> = file.lines().collect();
        let sorted = lines.into_iter().flat_map(|line| [line, b"\n"]).flatten();
        let expected = Expected::Output(sorted.copied().collect());
        self.task(Kind::Sort, &["sort", "-u", &file.path], expected)
    }

    fn second_try(&self, scratch: &Path, number: usize) -> Task {
        let marker = scratch.join(format!("marker-{number}"));
        let marker = format!("marker={}", marker.display());
        let expected = Expected::Output(b"made by the attempt before\n".to_vec());
        let argv = ["awk", "-v", &marker, MARKER_PROGRAM];
        self.task(Kind::SecondTry, &argv, expected).retried(5)
    }

    fn hopeless(&self, scratch: &Path) -> Task {
        let missing = scratch.join("nobody-makes-this").display().to_string();
        let argv = ["cat", &missing];
        self.task(Kind::Hopeless, &argv, Expected::DeadLetter(3))
            .retried(3)
    }

    fn no_such_program(&self) -> Task {
        self.task(
            Kind::NoSuchProgram,
            &["watchwork-no-such-program"],
            Expected::Failure,
        )
    }

    fn task(&self, kind: Kind, argv: &[&str], expected: Expected) -> Task {
        // So that sort orders bytes, as it is done here.
        let environment = json!({"LC_ALL": "C"});
        let payload = json!({"argv": argv, "cwd": self.root, "env": environment});
        task(kind, "command", &payload, expected)
    }
}

fn sleep(ms: usize) -> Task {
    task(Kind::Sleep, "sleep", &json!({"ms": ms}), Expected::Success)
}

fn fail_at_first(times: usize) -> Task {
    let payload = json!({"times": times, "message": "not yet"});
    task(Kind::FailAtFirst, "fail", &payload, Expected::Success).retried(5)
}

fn task(kind: Kind, job_type: &str, payload: &Value, expected: Expected) -> Task {
    let mut submission = submission(job_type, payload);
    submission.labels = [("main-job".to_owned(), format!("{kind:?}"))].into();
    Task {
        kind,
        submission,
        expected,
    }
}

impl Task {
    /// With so many attempts in all, the second one soon.
    fn retried(mut self, max_attempts: u32) -> Self {
        self.submission.retry_policy = Some(retry_policy(max_attempts, FIRST_BACKOFF));
        self
    }
}

fn lines_with_fn(file: &File) -> usize {
    file.lines()
        .filter(|line| line.windows(2).any(|pair| pair == b"fn"))
        .count()
}
