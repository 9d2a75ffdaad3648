//! A clock of PostgreSQL's own, which can be put forward.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const SOURCE: &str = include_str!("clock.c");

/// How far the server's clock is ahead.
pub(crate) struct Clock {
    file: File,
    ahead: i64,
}

impl Clock {
    /// Builds what the server preloads, in `dir`; gives the variables that it takes.
    pub(crate) fn build(dir: &Path) -> Result<(Self, Vec<(String, String)>)> {
        let (source, library, path) =
            (dir.join("clock.c"), dir.join("clock.so"), dir.join("ahead"));
        fs::write(&source, SOURCE)?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl")
            .output()
            .context("there is no C compiler")?;
        ensure!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)?;
        file.write_all_at(&0_i64.to_ne_bytes(), 0)?;
        for readable in [&library, &path] {
            fs::set_permissions(readable, fs::Permissions::from_mode(0o755))?;
        }
        let variable = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
        let env = vec![
            variable("LD_PRELOAD", &library),
            variable("CLOCK_AHEAD", &path),
        ];
        Ok((Self { file, ahead: 0 }, env))
    }

    /// The server's clock is put forward, as somebody might who sets it right.
    pub(crate) fn put_forward(&mut self, by: Duration) -> Result<()> {
        self.ahead += i64::try_from(by.as_secs())?;
        Ok(self.file.write_all_at(&self.ahead.to_ne_bytes(), 0)?)
    }
}
