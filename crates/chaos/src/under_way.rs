//! What the workers run just now, by their own log.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::history::{CallLine, Step};
use crate::place::Place;

/// Follows the log of calls.
#[derive(Debug)]
pub(crate) struct UnderWay {
    log: PathBuf,
    read: u64,
    /// The process that runs each call.
    calls: HashMap<(Place, u64), u32>,
}

impl UnderWay {
    /// Follows the log at `path` from its begin.
    pub(crate) fn of(path: &Path) -> Self {
        Self {
            log: path.to_owned(),
            read: 0,
            calls: HashMap::new(),
        }
    }

    /// Whether a process runs something.
    ///
    /// # Errors
    /// The log can't be read.
    pub(crate) fn runs_on(&mut self, pid: u32) -> Result<bool> {
        self.read_on()?;
        Ok(self.calls.values().any(|one| *one == pid))
    }

    fn read_on(&mut self) -> Result<()> {
        // The first worker makes it.
        let Ok(mut file) = File::open(&self.log) else {
            return Ok(());
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut lines = BufReader::new(file);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
            self.read += line.len() as u64;
            let call: CallLine = serde_json::from_str(&line)?;
            let which = (call.execution, call.fence);
            match call.step {
                Step::Begin => drop(self.calls.insert(which, call.pid)),
                Step::End { .. } => drop(self.calls.remove(&which)),
            }
            line.clear();
        }
        Ok(())
    }
}
