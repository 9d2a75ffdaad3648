//! A wire with trouble on demand.

use std::io::Result;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Wire;
use super::half::{Half, Way};

/// What is wrong with a network just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing.
    None,
    /// What is sent arrives so much later.
    Delay(Duration),
    /// What is sent is kept, and arrives once that is over.
    Stall,
    /// What is sent is lost, both ways. A connection that lost something stays silent for good, and
    /// open until one of its ends gives up.
    Blackhole,
    /// The same for what clients send; they hear all that they are sent.
    Deaf,
    /// The same for what the server sends.
    Mute,
}

/// Carries bytes, whatever they are, through whatever trouble there is.
#[derive(Debug)]
pub struct Network {
    trouble: watch::Sender<Trouble>,
    /// Counted up to break off all connections.
    resets: watch::Sender<u64>,
}

impl Network {
    /// Changes what is wrong, for old and new connections.
    pub fn turn(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }

    /// Breaks off all connections that there are, with RST to both ends.
    pub fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }
}

impl Default for Network {
    /// Without trouble.
    fn default() -> Self {
        Self {
            trouble: watch::Sender::new(Trouble::None),
            resets: watch::Sender::new(0),
        }
    }
}

impl Wire for Network {
    async fn carry(&self, mut client: TcpStream, mut server: TcpStream) -> Result<()> {
        let mut broken_off = self.resets.subscribe();
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let half = |way| Half::new(way, self.trouble.subscribe());
        let both = async {
            tokio::try_join!(
                half(Way::ToServer).carry(from_client, to_server),
                half(Way::ToClient).carry(from_server, to_client),
            )
        };
        let is_over = tokio::select! {
            ended = both => ended.is_ok(),
            _ = broken_off.changed() => false,
        };
        if !is_over {
            // Closing without lingering sends RST: who is at the other end learns of a break as it was.
            client.set_zero_linger()?;
            server.set_zero_linger()?;
        }
        Ok(())
    }
}
