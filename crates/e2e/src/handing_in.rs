//! Handing work in as a good client does: what is unavailable just now is tried again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::future::try_join_all;
use proto::v1::Submission;
use tokio::time::sleep;
use tonic::{Code, Status};
use watchwork::client::Client;

/// How long something may stay unavailable: longer than lanes are ever without an owner.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// An acknowledged submission.
#[derive(Clone, Debug)]
pub struct HandedIn {
    /// Its execution's id.
    pub id: String,
    /// When the call began that was acknowledged.
    pub at: Instant,
    /// How often it was unavailable before.
    pub refused: u32,
}

/// Hands in up to 1000 submissions in one call; those that are unavailable again until they are
/// taken. Gives the acknowledgements in the submissions' order.
///
/// # Errors
/// One is refused for good, or for longer than half a minute.
pub async fn hand_in(client: &Client, submissions: Vec<Submission>) -> Result<Vec<HandedIn>> {
    let asked = submissions.len();
    let mut taken: Vec<Option<HandedIn>> = vec![None; asked];
    let mut open: Vec<(usize, Submission)> = submissions.into_iter().enumerate().collect();
    let mut patience = Patience::new();
    while !open.is_empty() {
        let at = Instant::now();
        let refused = patience.refused;
        let batch = open.iter().map(|(_, submission)| submission.clone());
        let verdicts = match client.submit_batch(batch.collect()).await {
            Ok(verdicts) => verdicts,
            Err(status) => {
                patience.wait_after(&status).await?;
                continue;
            }
        };
        let mut still_open = Vec::new();
        let mut last = None;
        for ((index, submission), verdict) in open.into_iter().zip(verdicts) {
            match verdict {
                Ok(id) => taken[index] = Some(HandedIn { id, at, refused }),
                Err(refusal) => {
                    last = Some(Status::new(Code::from(refusal.code), refusal.message));
                    still_open.push((index, submission));
                }
            }
        }
        if let Some(status) = last {
            patience.wait_after(&status).await?;
        }
        open = still_open;
    }
    let taken: Vec<HandedIn> = taken.into_iter().flatten().collect();
    ensure!(
        taken.len() == asked,
        "an answer held fewer verdicts than were asked for"
    );
    Ok(taken)
}

/// Hands in submissions at the same time, each in a call of its own, and each again until it is
/// taken. Gives the acknowledgements in the submissions' order.
///
/// # Errors
/// One is refused for good, or for longer than half a minute.
pub async fn hand_in_each(client: &Client, submissions: Vec<Submission>) -> Result<Vec<HandedIn>> {
    let one = |submission| hand_in_one(client, submission);
    try_join_all(submissions.into_iter().map(one)).await
}

async fn hand_in_one(client: &Client, submission: Submission) -> Result<HandedIn> {
    let mut patience = Patience::new();
    loop {
        let at = Instant::now();
        match client.submit(submission.clone()).await {
            Ok(id) => {
                let refused = patience.refused;
                return Ok(HandedIn { id, at, refused });
            }
            Err(status) => patience.wait_after(&status).await?,
        }
    }
}

/// Pauses between tries, each twice as long as the one before.
struct Patience {
    since: Instant,
    pause: Duration,
    refused: u32,
}

impl Patience {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            pause: FIRST_PAUSE,
            refused: 0,
        }
    }

    async fn wait_after(&mut self, status: &Status) -> Result<()> {
        if !is_passing(status) || self.since.elapsed() > PATIENCE {
            bail!("can't hand in work: {status}");
        }
        self.refused += 1;
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Whether the same may be taken a little later. A connection that broke in the middle of a call is
/// `Unknown` or `Internal` or `Cancelled`, as it happens.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
    )
}
