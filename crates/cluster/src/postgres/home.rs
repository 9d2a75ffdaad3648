//! Where a private server keeps its things, and making them the first time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::SUPERUSER;
use super::account::Account;
use super::binaries::Binaries;
use crate::directory::write_private;
use crate::secrets::random_secret;

/// For root, when the server's account can't reach the cluster's directory.
const ELSEWHERE: &str = "/var/lib/watchwork";
/// What is left in the cluster's directory then.
const NOTE: &str = "postgres-is-elsewhere.txt";
/// Longer paths of sockets are refused by the system; the file's own name needs some of it.
const LONGEST_SOCKET_FOLDER: usize = 85;

/// `data`, `socket`, `password` and `port` of one server.
#[derive(Debug, Clone)]
pub(super) struct Home {
    /// The folder that holds them all.
    pub(super) path: PathBuf,
    /// Who owns it.
    pub(super) account: Account,
}

impl Home {
    /// `<dir>/postgres`, or a place below `/var/lib/watchwork` with a note in `dir`.
    pub(super) fn below(dir: &Path) -> Result<Self> {
        let home = Self::make(dir.join("postgres"))?;
        if home.account.reaches(&home.path) {
            return Ok(home);
        }
        fs::remove_dir(&home.path)
            .with_context(|| format!("can't remove {}", home.path.display()))?;
        let home = Self::make(elsewhere(dir))?;
        let note = format!(
            "PostgreSQL doesn't run as root, and its account can't get to this directory.\n\
             Its data is in {}.\n",
            home.path.display()
        );
        fs::write(dir.join(NOTE), note)?;
        Ok(home)
    }

    fn make(path: PathBuf) -> Result<Self> {
        let account = Account::choose(&path.join("data"))?;
        account.make_directory(&path)?;
        Ok(Self { path, account })
    }

    /// PostgreSQL's data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The folder of the unix socket; none where its path would be too long for one.
    pub(super) fn socket(&self) -> Result<Option<PathBuf>> {
        let folder = self.path.join("socket");
        if folder.as_os_str().len() > LONGEST_SOCKET_FOLDER {
            return Ok(None);
        }
        self.account.make_directory(&folder)?;
        Ok(Some(folder))
    }

    /// The superuser's password.
    pub(super) fn password(&self) -> Result<String> {
        let path = self.password_file();
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    }

    /// The port of the last run, if there was one.
    pub(super) fn last_port(&self) -> Option<u16> {
        fs::read_to_string(self.path.join("port"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Keeps the port, so that the next run has the same address if it can.
    pub(super) fn keep_port(&self, port: u16) -> Result<()> {
        write_private(&self.path.join("port"), port.to_string().as_bytes())
    }

    /// The major version that made the data; none if there is no data yet.
    pub(super) fn data_major(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Makes the data directory and the password.
    ///
    /// It is made under another name and renamed when it is whole: a run that is killed in between
    /// leaves nothing that looks like data.
    pub(super) fn make_data(&self, binaries: &Binaries) -> Result<()> {
        let new = self.path.join("data.new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        write_private(&self.password_file(), random_secret(32).as_bytes())?;
        self.account.own(&self.password_file())?;
        let mut initdb = Command::new(binaries.program("initdb"));
        initdb
            .args(["--encoding=UTF8", "--locale=C", "--username", SUPERUSER])
            .args(["--auth-local=scram-sha-256", "--auth-host=scram-sha-256"])
            .arg("--pwfile")
            .arg(self.password_file())
            .arg("--pgdata")
            .arg(&new);
        self.account.finish(initdb)?;
        fs::rename(&new, self.data()).context("can't rename the new data directory")
    }

    /// Keeps a copy of the data, in the place of an earlier one. The server must be stopped.
    pub(super) fn keep_copy(&self) -> Result<()> {
        let copy = self.copy();
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        let mut copying = Command::new("cp");
        copying.arg("-a").arg(self.data()).arg(&copy);
        self.account.finish(copying)
    }

    /// Puts the copy in the place of the data, which is set aside: those who were killed with the server
    /// may still be about to end in it.
    pub(super) fn go_back_to_copy(&self) -> Result<()> {
        let aside = (1..).map(|number| self.path.join(format!("data.lost-{number}")));
        let aside = aside.into_iter().find(|aside| !aside.exists());
        fs::rename(self.data(), aside.context("there is a free name")?)?;
        fs::rename(self.copy(), self.data()).context("there is no copy of the data")
    }

    /// Makes the next start a recovery from an archive, which is empty: it ends at once, on a timeline
    /// of its own.
    pub(super) fn begin_a_timeline(&self) -> Result<()> {
        const PREPARE: &str = "echo \"restore_command = 'false'\" >> \"$0/postgresql.auto.conf\" \
             && touch \"$0/recovery.signal\"";
        let mut prepare = Command::new("sh");
        prepare.args(["-c", PREPARE]).arg(self.data());
        self.account.finish(prepare)
    }

    fn copy(&self) -> PathBuf {
        self.path.join("data.copy")
    }

    fn password_file(&self) -> PathBuf {
        self.path.join("password")
    }
}

fn elsewhere(dir: &Path) -> PathBuf {
    let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    Path::new(ELSEWHERE).join(hex::encode(&digest[..8]))
}
