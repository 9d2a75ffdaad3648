//! Logs of JSON lines that several processes write to and that survive the death of each of them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A log to write to. Each line is one `write` at the file's end, so lines of several processes don't
/// mix; what was written outlives a `kill -9` in the system's cache.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens a log, made if need be.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("can't open {}", path.display()))?;
        Ok(Self { file })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// The disk is full, for example.
    pub fn write<T: Serialize>(&self, line: &T) -> Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        (&self.file).write_all(&bytes).context("can't write a log")
    }
}

/// All lines of a log, in order; none if nobody wrote it.
///
/// # Errors
/// It can't be read, or a line isn't what it should be.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path)?;
    let lines = text.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: {line:?}", path.display(), number + 1))
    });
    lines.collect()
}
