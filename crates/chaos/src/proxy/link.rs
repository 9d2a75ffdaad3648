//! One connection through a proxy.

use std::io::Result;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::Weather;

const CHUNK: usize = 1 << 16;
/// What may be under way at a time in one direction, in chunks.
const UNDER_WAY: usize = 64;

/// Where one half of a connection leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Way {
    fn is_lost_in(self, weather: Weather) -> bool {
        match weather {
            Weather::Clear | Weather::Delay(_) | Weather::Stall => false,
            Weather::Blackhole => true,
            Weather::Deaf => self == Self::ToServer,
            Weather::Mute => self == Self::ToClient,
        }
    }
}

/// Carries what both ends send until both have ended, one breaks, or all connections are broken off.
pub(super) async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    weather: &watch::Sender<Weather>,
    resets: &watch::Sender<u64>,
) {
    let mut broken_off = resets.subscribe();
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let both = async {
        tokio::try_join!(
            half(from_client, to_server, Way::ToServer, weather.subscribe()),
            half(from_server, to_client, Way::ToClient, weather.subscribe()),
        )
    };
    let is_reset = tokio::select! {
        ended = both => ended.is_err(),
        _ = broken_off.changed() => true,
    };
    if is_reset {
        // Closing without lingering sends RST.
        let _ = client.set_zero_linger().and(server.set_zero_linger());
    }
}

/// One direction: read at once, written when it is time.
async fn half(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    mut weather: watch::Receiver<Weather>,
) -> Result<()> {
    let (late, mut arrivals) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let mut seen = weather.clone();
    let reading = async move {
        let mut chunk = vec![0; CHUNK];
        let mut lost = false;
        loop {
            let read = from.read(&mut chunk).await?;
            let now = *seen.borrow_and_update();
            lost |= way.is_lost_in(now);
            if read == 0 && !lost {
                return Ok(());
            }
            if read == 0 {
                // Not even the end arrives.
                std::future::pending::<()>().await;
            }
            let due = match now {
                Weather::Delay(delay) => Instant::now() + delay,
                _ => Instant::now(),
            };
            if !lost && late.send((due, chunk[..read].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = arrivals.recv().await {
            sleep_until(due).await;
            // The sender lives as long as the proxy.
            let _ = weather.wait_for(|now| *now != Weather::Stall).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}
