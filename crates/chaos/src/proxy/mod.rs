//! A network that can be bad: connections through it are late, stuck, silent or broken off.

mod link;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use link::carry;

/// How a network is just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// As it should be.
    Clear,
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

/// A way to one server, through which its clients reach it. It is gone when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct State {
    server: watch::Sender<Option<SocketAddr>>,
    weather: watch::Sender<Weather>,
    /// Counted up to break off all connections.
    resets: watch::Sender<u64>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1. Until it is told where to lead, it accepts connections and
    /// closes them again.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            server: watch::Sender::new(None),
            weather: watch::Sender::new(Weather::Clear),
            resets: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state))).abort_handle();
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// Where its clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on new connections lead there.
    pub fn lead_to(&self, server: SocketAddr) {
        self.state.server.send_replace(Some(server));
    }

    /// Changes the weather, for old and new connections.
    pub fn turn(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
    }

    /// Breaks off all connections that there are, with RST to both ends.
    pub fn reset(&self) {
        self.state.resets.send_modify(|resets| *resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut links = JoinSet::new();
    loop {
        // None of ours: the client gave up, or we have too many files open for a moment.
        let Ok((client, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let state = Arc::clone(&state);
        links.spawn(async move {
            let server = *state.server.borrow();
            let Some(server) = server else { return };
            if let Ok(server) = TcpStream::connect(server).await {
                carry(client, server, &state.weather, &state.resets).await;
            }
        });
        while links.try_join_next().is_some() {}
    }
}
