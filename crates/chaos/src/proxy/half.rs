//! One direction of a connection.

use std::future::pending;
use std::io::Result;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::network::Trouble;

const CHUNK: usize = 1 << 16;
/// How many chunks may be under way at a time.
const UNDER_WAY: usize = 64;

/// Where it leads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToServer,
    ToClient,
}

/// One direction: read at once, written when it is time.
pub(super) struct Half {
    way: Way,
    trouble: watch::Receiver<Trouble>,
}

/// Bytes, and when they arrive.
type Arrival = (Instant, Vec<u8>);

impl Half {
    pub(super) fn new(way: Way, trouble: watch::Receiver<Trouble>) -> Self {
        Self { way, trouble }
    }

    /// Carries until the sender has said all, or somebody breaks off.
    pub(super) async fn carry(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<()> {
        let (sent, arrivals) = mpsc::channel(UNDER_WAY);
        let arriving = arrive(to, arrivals, self.trouble.clone());
        tokio::try_join!(self.send(from, sent), arriving)?;
        Ok(())
    }

    async fn send(self, mut from: ReadHalf<'_>, sent: mpsc::Sender<Arrival>) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        let mut has_lost = false;
        loop {
            let read = from.read(&mut chunk).await?;
            let trouble = *self.trouble.borrow();
            has_lost |= self.loses(trouble);
            match (read, has_lost) {
                (0, false) => return Ok(()),
                // Not even the end arrives.
                (0, true) => pending().await,
                (_, true) => {}
                (_, false) => {
                    let late = match trouble {
                        Trouble::Delay(late) => late,
                        _ => Duration::ZERO,
                    };
                    let arrival = (Instant::now() + late, chunk[..read].to_vec());
                    // Whoever writes has met an error, which ends both.
                    let _ = sent.send(arrival).await;
                }
            }
        }
    }

    fn loses(&self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::None | Trouble::Delay(_) | Trouble::Stall => false,
            Trouble::Blackhole => true,
            Trouble::Deaf => self.way == Way::ToServer,
            Trouble::Mute => self.way == Way::ToClient,
        }
    }
}

async fn arrive(
    mut to: WriteHalf<'_>,
    mut arrivals: mpsc::Receiver<Arrival>,
    mut trouble: watch::Receiver<Trouble>,
) -> Result<()> {
    while let Some((due, bytes)) = arrivals.recv().await {
        sleep_until(due).await;
        // An error means that the proxy is gone, and this soon as well.
        let _ = trouble.wait_for(|now| *now != Trouble::Stall).await;
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}
