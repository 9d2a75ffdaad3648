//! Standard output: aligned columns for people, one JSON value a line for programs.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::args::Format;

/// Where answers go.
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One value, for programs.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        self.text(&format!("{line}\n"))
    }

    /// Text, for people.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}
