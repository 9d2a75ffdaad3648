//! Who runs PostgreSQL. It refuses to run as root, so root lends it another account.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The account that the server runs as.
#[derive(Debug, Clone, Copy)]
pub(super) enum Account {
    /// Our own.
    Ours,
    /// Another one, because we are root.
    Lent {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

impl Account {
    /// Ours; for root the owner of the data that exists, else `postgres` if there is such a user,
    /// else `nobody`.
    ///
    /// # Errors
    /// We are root and there is none of them.
    pub(super) fn choose(data: &Path) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ours);
        }
        if let Ok(data) = fs::metadata(data)
            && data.uid() != 0
        {
            return Ok(Self::Lent {
                uid: data.uid(),
                gid: data.gid(),
            });
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(Self::named)
            .context(
                "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`: \
             add one of them, or don't run this as root",
            )
    }

    fn named(user: &str) -> Option<Self> {
        let ask = |what: &str| -> Option<u32> {
            let output = Command::new("id").args([what, user]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        Some(Self::Lent {
            uid: ask("-u")?,
            gid: ask("-g")?,
        })
    }

    /// Makes `command` run as this account.
    pub(super) fn run(self, command: &mut Command) {
        if let Self::Lent { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Makes `dir`, readable for this account alone.
    pub(super) fn make_directory(self, dir: &Path) -> Result<()> {
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
            self.own(dir)
        };
        make().with_context(|| format!("can't make {}", dir.display()))
    }

    /// Gives `path` to this account.
    pub(super) fn own(self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Ours => Ok(()),
            Self::Lent { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }

    /// Whether this account can get to `dir`, which may lie below somebody's private directory.
    pub(super) fn reaches(self, dir: &Path) -> bool {
        let mut command = Command::new("sh");
        command.args(["-c", "cd -- \"$0\" 2>/dev/null"]).arg(dir);
        self.run(&mut command);
        command.status().is_ok_and(|status| status.success())
    }

    /// Runs a program to its end as this account.
    ///
    /// # Errors
    /// It can't be started or fails; the error holds what it said.
    pub(super) fn finish(self, mut command: Command) -> Result<()> {
        self.run(&mut command);
        // Our own working directory may be out of its reach.
        command.current_dir("/");
        let output = command
            .output()
            .with_context(|| format!("can't run {command:?}"))?;
        ensure!(
            output.status.success(),
            "{command:?} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
