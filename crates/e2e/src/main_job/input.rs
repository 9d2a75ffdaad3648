//! Real input: the files below a directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Folders that hold what was made, not written.
const MADE: [&str; 1] = ["target"];
/// Beyond it a file takes longer than the rest together.
const LARGEST: u64 = 1 << 20;

/// A file as it is now.
#[derive(Debug)]
pub(super) struct File {
    /// Relative to the root, without white space.
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
}

impl File {
    pub(super) fn is_ascii(&self) -> bool {
        self.bytes.is_ascii()
    }

    /// Its lines, without their ends.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        text.split(|byte| *byte == b'\n')
            .filter(|_| !self.bytes.is_empty())
    }
}

/// Reads the files below `root`, sorted by path; hidden ones, what was built, and names with white
/// space are left out.
///
/// # Errors
/// A directory or file can't be read, or there are none.
pub(super) fn files_below(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let absolute = root.join(&folder);
        let unreadable = || format!("can't read {}", absolute.display());
        for entry in fs::read_dir(&absolute).with_context(unreadable)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let kind = entry.file_type()?;
            if name.starts_with('.') || name.contains([' ', '\t', '\n', '\\']) {
                continue;
            }
            let path = folder.join(&name);
            if kind.is_dir() && !MADE.contains(&name.as_str()) {
                open.push(path);
            } else if kind.is_file() && entry.metadata()?.len() <= LARGEST {
                files.push(read(root, &path)?);
            }
        }
    }
    ensure!(
        !files.is_empty(),
        "there are no files in {}",
        root.display()
    );
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn read(root: &Path, path: &Path) -> Result<File> {
    let bytes = fs::read(root.join(path));
    Ok(File {
        bytes: bytes.with_context(|| format!("can't read {}", path.display()))?,
        path: path.display().to_string(),
    })
}
