//! Asking a member whether it takes traffic.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::member::Member;

const POLL: Duration = Duration::from_millis(20);
const ONE_TRY: Duration = Duration::from_secs(2);

/// Waits until the member answers `/health/ready` with 200.
///
/// # Errors
/// It ends, or isn't ready in time; the error holds its answer and the end of its log.
pub(crate) async fn wait_until_ready(member: &Member, deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        let answer = timeout(ONE_TRY, ask(&member.admin_address())).await;
        let reason = match answer {
            Ok(Ok(answer)) if is_ready(&answer) => return Ok(()),
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if !member.alive() {
            bail!(member.complaint("ended before it was ready"));
        }
        if Instant::now() > end {
            bail!(member.complaint(&format!("isn't ready after {deadline:?}: {reason}")));
        }
        sleep(POLL).await;
    }
}

async fn ask(admin_address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(admin_address)
        .await
        .with_context(|| format!("can't connect to {admin_address}"))?;
    let request =
        format!("GET /health/ready HTTP/1.1\r\nHost: {admin_address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn is_ready(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}
