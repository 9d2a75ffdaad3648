//! A private PostgreSQL server.

mod account;
mod binaries;
mod databases;
mod home;
mod install;
mod postmaster;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::directory::DirectoryLock;
use crate::ports;
use binaries::Binaries;
use home::Home;
use postmaster::Postmaster;

pub(crate) use databases::{create_database, drop_database, drop_databases_like, sibling_url};

/// The only user of a private server.
const SUPERUSER: &str = "watchwork";
/// The database that always exists.
const MAINTENANCE: &str = "postgres";

/// What a private server can be told.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// PostgreSQL's `shared_buffers`, in MiB.
    pub shared_buffers_mb: u32,
    /// Further environment variables of the server.
    pub env: Vec<(String, String)>,
}

/// As which timeline an older copy of a server's data goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeline {
    /// Its own, as if nothing had been after it: what a copied directory does.
    Same,
    /// One of its own, as what was recovered from an archive or promoted does.
    New,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            shared_buffers_mb: 256,
            env: Vec::new(),
        }
    }
}

/// A private PostgreSQL server that runs as our child, on 127.0.0.1 and a unix socket, with a
/// password, as durable as any other. It stops when it is dropped; if this process is killed, the
/// kernel tells it to stop where the system can (see `setpriv`), and the next start ends it otherwise.
///
/// All calls block; starting the first time takes about two seconds.
#[derive(Debug)]
pub struct Postgres {
    home: Home,
    binaries: Binaries,
    log: PathBuf,
    port: u16,
    password: String,
    options: PostgresOptions,
    /// None while it is stopped.
    postmaster: Mutex<Option<Postmaster>>,
    _lock: DirectoryLock,
}

impl Postgres {
    /// Starts the server whose data is in `<dir>/postgres`, and makes the data the first time. Its
    /// log is `<dir>/logs/postgres.log`.
    ///
    /// PostgreSQL refuses to run as root; root lends it the account `postgres` or `nobody`. If that
    /// one can't get to `dir`, the data is under `/var/lib/watchwork`, and a note in `dir` says so.
    ///
    /// # Errors
    /// The directory is in use, PostgreSQL is not installed and can't be, or it doesn't start.
    pub fn start(dir: &Path, options: PostgresOptions) -> Result<Self> {
        let lock = DirectoryLock::take(dir, "postgres")?;
        let dir = fs::canonicalize(dir)?;
        // First, because an installation also brings the account that the server runs as.
        let found = Binaries::find()?;
        let home = Home::below(&dir)?;
        let binaries = Binaries::choose(found, home.data_major())?;
        if home.data_major().is_none() {
            home.make_data(&binaries)?;
        }
        postmaster::clear_leftovers(&home.data())?;
        let port = match home.last_port() {
            Some(port) if ports::is_free(port) => port,
            _ => ports::free()?,
        };
        let server = Self {
            password: home.password()?,
            log: dir.join("logs").join("postgres.log"),
            postmaster: Mutex::new(None),
            _lock: lock,
            home,
            binaries,
            port,
            options,
        };
        server.launch()?;
        server.home.keep_port(port)?;
        Ok(server)
    }

    /// The superuser's URL of a database on this server; it holds the password.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// The superuser's URL of the database that always exists, from where others are made.
    #[must_use]
    pub fn maintenance_url(&self) -> String {
        self.url(MAINTENANCE)
    }

    /// How the server ended by itself; none while it runs, and once it was stopped.
    ///
    /// # Errors
    /// The system refuses to tell.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut postmaster = self.postmaster();
        postmaster.as_mut().map_or(Ok(None), Postmaster::status)
    }

    /// Its log, with that of earlier runs.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Makes a database and tells its URL; one that exists stays as it is.
    ///
    /// # Errors
    /// The server refuses, or can't be reached.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        create_database(&self.maintenance_url(), name).await?;
        Ok(self.url(name))
    }

    /// Drops a database and ends the sessions in it; one that doesn't exist is none.
    ///
    /// # Errors
    /// The server refuses, or can't be reached.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        drop_database(&self.maintenance_url(), name).await
    }

    /// `kill -9` of the server, as a crash would end it. What was committed is there after
    /// [`restart`](Self::restart).
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&self) -> Result<()> {
        self.postmaster()
            .take()
            .map_or(Ok(()), |mut postmaster| postmaster.kill())
    }

    /// Starts the server again at the same address, after a stop of what still runs.
    ///
    /// # Errors
    /// It doesn't stop in order, or doesn't start.
    pub fn restart(&self) -> Result<()> {
        self.halt()?;
        postmaster::clear_leftovers(&self.home.data())?;
        self.launch()
    }

    /// Keeps a copy of the data as it is: the server is stopped for that, in order, and started again at
    /// the same address.
    ///
    /// # Errors
    /// It doesn't stop or start, or the copy can't be made.
    pub fn keep_copy(&self) -> Result<()> {
        self.halt()?;
        self.home.keep_copy()?;
        self.launch()
    }

    /// Loses everything that was committed since [`keep_copy`](Self::keep_copy), as a restored backup or a
    /// standby that lagged behind does: `kill -9`, the copy in the place of the data, and a start at the
    /// same address.
    ///
    /// # Errors
    /// There is no copy, or the server doesn't start.
    pub fn go_back_to_copy(&self, timeline: Timeline) -> Result<()> {
        self.kill()?;
        self.home.go_back_to_copy()?;
        if timeline == Timeline::New {
            self.home.begin_a_timeline()?;
        }
        self.launch()
    }

    /// Ends the server in order. The data stays for the next start.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(self) -> Result<()> {
        self.halt()
    }

    /// Ends the server and deletes its data.
    ///
    /// # Errors
    /// The data can't be deleted.
    pub fn destroy(self) -> Result<()> {
        self.kill()?;
        let home = &self.home.path;
        fs::remove_dir_all(home).with_context(|| format!("can't delete {}", home.display()))
    }

    fn launch(&self) -> Result<()> {
        let started = Postmaster::start(
            &self.home,
            &self.binaries,
            &self.log,
            self.port,
            &self.options,
        )?;
        *self.postmaster() = Some(started);
        Ok(())
    }

    fn halt(&self) -> Result<()> {
        self.postmaster()
            .take()
            .map_or(Ok(()), |mut postmaster| postmaster.stop())
    }

    fn postmaster(&self) -> MutexGuard<'_, Option<Postmaster>> {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Nobody is left to tell of an error; the next start recovers.
        let _ = self.halt();
    }
}
