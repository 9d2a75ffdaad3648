//! A network that can be bad: connections through a proxy are late, stuck, silent or broken off.

mod half;
mod network;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub use network::{Network, Trouble};

/// What carries connections from one end to the other.
pub trait Wire: Send + Sync + 'static {
    /// Carries one until it is over.
    fn carry(
        &self,
        client: TcpStream,
        server: TcpStream,
    ) -> impl Future<Output = std::io::Result<()>> + Send;
}

/// A way to one server, through which its clients reach it. It is gone when this is dropped.
#[derive(Debug)]
pub struct Proxy<W = Network> {
    address: SocketAddr,
    server: watch::Sender<Option<SocketAddr>>,
    wire: Arc<W>,
    accepting: AbortHandle,
}

impl<W: Wire> Proxy<W> {
    /// Listens on a free port of 127.0.0.1. Until it is told where to lead, it accepts connections and
    /// closes them again.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn over(wire: W) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (wire, server) = (Arc::new(wire), watch::Sender::new(None));
        let accepting = accept(listener, server.subscribe(), Arc::clone(&wire));
        Ok(Self {
            address,
            server,
            wire,
            accepting: tokio::spawn(accepting).abort_handle(),
        })
    }

    /// Where its clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on new connections lead there.
    pub fn lead_to(&self, server: SocketAddr) {
        self.server.send_replace(Some(server));
    }

    /// What carries its connections.
    #[must_use]
    pub fn wire(&self) -> &W {
        &self.wire
    }
}

impl<W> Drop for Proxy<W> {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept<W: Wire>(
    listener: TcpListener,
    server: watch::Receiver<Option<SocketAddr>>,
    wire: Arc<W>,
) {
    let mut links = JoinSet::new();
    loop {
        // Its client gave up, or too many files are open for a moment.
        let Ok((client, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (server, wire) = (*server.borrow(), Arc::clone(&wire));
        links.spawn(async move {
            let Some(server) = server else { return };
            if let Ok(server) = TcpStream::connect(server).await {
                let _ = client.set_nodelay(true).and(server.set_nodelay(true));
                // However it ended.
                let _ = wire.carry(client, server).await;
            }
        });
        while links.try_join_next().is_some() {}
    }
}
