//! Processor time, as the kernel counts it in nanoseconds.

use std::error::Error;
use std::fs;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

/// Processor time used so far.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    /// By this thread, which does all there is to do in this program.
    pub(crate) client: Duration,
    /// By the server's processes that run now.
    pub(crate) server: Duration,
}

/// Who is the server's first process: the parent of any session's.
pub(crate) async fn postmaster(url: &str) -> Result<u32, Box<dyn Error>> {
    let mut connection = PgConnection::connect(url).await?;
    let session: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut connection)
        .await?;
    parent(&session.to_string()).ok_or_else(|| "the session's process is not in /proc".into())
}

impl Cpu {
    pub(crate) fn now(postmaster: u32) -> Result<Self, Box<dyn Error>> {
        let mut server = Duration::ZERO;
        for entry in fs::read_dir("/proc")? {
            let process = entry?.file_name().to_string_lossy().into_owned();
            if process == postmaster.to_string() || parent(&process) == Some(postmaster) {
                // One that has just ended takes its time with it.
                server += on_processor(&format!("/proc/{process}")).unwrap_or_default();
            }
        }
        let client = on_processor("/proc/thread-self").ok_or("no /proc/thread-self/schedstat")?;
        Ok(Self { client, server })
    }
}

/// The parent of a process; none if it is no process.
fn parent(process: &str) -> Option<u32> {
    process.parse::<u32>().ok()?;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn on_processor(folder: &str) -> Option<Duration> {
    let text = fs::read_to_string(format!("{folder}/schedstat")).ok()?;
    Some(Duration::from_nanos(
        text.split_whitespace().next()?.parse().ok()?,
    ))
}
