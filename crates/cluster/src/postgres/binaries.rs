//! Finding PostgreSQL's server programs.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::install;

/// The oldest PostgreSQL that Watchwork is tested with.
const OLDEST: u32 = 15;

/// A folder with `postgres` and `initdb` of one version.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    folder: PathBuf,
    /// The major version, for example 17.
    pub(super) major: u32,
}

impl Binaries {
    /// Finds those on this machine, the preferred ones first; installs PostgreSQL if there is none
    /// and we may.
    ///
    /// # Errors
    /// None is there and none can be installed; the error tells what to do.
    pub(super) fn find() -> Result<Vec<Self>> {
        if let Some(folder) = env::var_os("WATCHWORK_PG_BIN") {
            let folder = PathBuf::from(folder);
            let named = Self::at(&folder)
                .with_context(|| format!("WATCHWORK_PG_BIN={} is of no use", folder.display()))?;
            return Ok(vec![named]);
        }
        let found = Self::installed();
        if !found.is_empty() {
            return Ok(found);
        }
        install::postgresql()?;
        Ok(Self::installed())
    }

    /// The preferred one, or, for data that exists, the one of the version that made it.
    ///
    /// # Errors
    /// It isn't among them or is too old; the error tells what to do.
    pub(super) fn choose(found: Vec<Self>, data_major: Option<u32>) -> Result<Self> {
        let Some(first) = found.first().map(|binaries| binaries.major) else {
            bail!(
                "no PostgreSQL server (postgres, initdb) was found: {}",
                install::ADVICE
            )
        };
        let major = data_major.unwrap_or(first);
        ensure!(
            major >= OLDEST,
            "PostgreSQL {major} is too old: install {OLDEST} or newer, or set WATCHWORK_PG_BIN"
        );
        found
            .into_iter()
            .find(|binaries| binaries.major == major)
            .with_context(|| {
                format!(
                    "the data was made by PostgreSQL {major}, but {first} is what is installed: \
                 install {major} (or set WATCHWORK_PG_BIN to its bin folder), or delete the data"
                )
            })
    }

    /// The path of one of its programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Those on PATH, then the others, newest first.
    fn installed() -> Vec<Self> {
        let all = |folders: Vec<PathBuf>| folders.into_iter().flat_map(|folder| Self::at(&folder));
        let mut others: Vec<Self> = all(usual_folders()).collect();
        others.sort_by_key(|binaries| Reverse(binaries.major));
        let path = env::var_os("PATH").unwrap_or_default();
        all(env::split_paths(&path).collect())
            .chain(others)
            .collect()
    }

    fn at(folder: &Path) -> Result<Self> {
        for program in ["postgres", "initdb"] {
            let path = folder.join(program);
            ensure!(path.is_file(), "there is no {}", path.display());
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let major = major_of(&text).with_context(|| format!("what version is {text:?}?"))?;
        Ok(Self {
            folder: folder.to_owned(),
            major,
        })
    }
}

/// Reads `postgres (PostgreSQL) 17.2 (Debian 17.2-1)` and `… 18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Where packages put the server's programs, which are mostly not on PATH.
fn usual_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix, suffix) in [
        ("/usr/lib/postgresql", "", "bin"),         // Debian
        ("/usr", "pgsql-", "bin"),                  // packages of postgresql.org for Red Hat
        ("/usr/libexec", "postgresql", ""),         // Alpine
        ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew on Apple silicon
        ("/usr/local/opt", "postgresql", "bin"),    // Homebrew on Intel
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
                .map(|entry| entry.path().join(suffix)),
        );
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_postgres_says_of_itself() {
        assert_eq!(
            major_of("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("something else"), None);
    }

    #[test]
    fn data_of_another_version_is_refused_with_advice() {
        let found = vec![Binaries {
            folder: PathBuf::new(),
            major: 17,
        }];
        let error = Binaries::choose(found, Some(15))
            .expect_err("15 is not there")
            .to_string();
        assert!(
            error.contains("made by PostgreSQL 15") && error.contains("install 15"),
            "{error}"
        );
    }
}
