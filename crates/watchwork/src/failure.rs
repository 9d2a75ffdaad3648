//! How a command ends when it doesn't work: what is said, and which exit code says it to programs.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use tonic::{Code, Status};

/// The kinds of bad end, by exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It failed.
    Failed = 1,
    /// It was asked for wrongly.
    Usage = 2,
    /// What it is about isn't there.
    NotFound = 3,
    /// It can't be done just now.
    Unavailable = 4,
    /// The execution that was waited for ended badly.
    BadEnd = 5,
}

/// A bad end.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// For people; empty if all was said already.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The command was called wrongly.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Something didn't work: `what`, because of `why`.
    pub(crate) fn failed(what: &str, why: impl Display) -> Self {
        Self::new(Kind::Failed, format!("{what}: {why}"))
    }

    /// The exit code that says it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::InvalidArgument => Kind::Usage,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {
                Kind::Unavailable
            }
            _ => Kind::Failed,
        };
        Self::new(kind, status.message())
    }
}

impl From<io::Error> for Failure {
    /// For what is written to standard output. Whoever closed it doesn't want to read more, and
    /// isn't told so.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Kind::Failed, "");
        }
        Self::failed("can't write to standard output", error)
    }
}
