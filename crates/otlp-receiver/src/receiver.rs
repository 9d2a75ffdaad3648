//! The receiver as a whole: two ports and a store.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::Context;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceServiceServer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::grpc::TraceReceiver;
use crate::http;
use crate::store::SpanStore;

/// The largest export request that is taken.
pub(crate) const MAX_REQUEST_BYTES: usize = 16 << 20;

const DEFAULT_CAPACITY: usize = 200_000;
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Where to listen, and how much to keep.
#[derive(Clone, Debug)]
pub struct ReceiverOptions {
    /// Address for OTLP over gRPC; port 0 takes a free one.
    pub otlp_grpc: SocketAddr,
    /// Address for OTLP over HTTP and for queries; port 0 takes a free one.
    pub http: SocketAddr,
    /// How many spans are kept; past that, those that came first are dropped.
    pub capacity: usize,
}

impl Default for ReceiverOptions {
    /// Free ports on the loopback interface, and 200 000 spans.
    fn default() -> Self {
        let free_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            otlp_grpc: free_port,
            http: free_port,
            capacity: DEFAULT_CAPACITY,
        }
    }
}

/// A running receiver. Dropping it stops it too, without waiting.
pub struct Receiver {
    /// Where OTLP over gRPC is taken.
    pub otlp_grpc_addr: SocketAddr,
    /// Where OTLP over HTTP is taken (`/v1/traces`), and where queries are answered (`/api/…`).
    pub http_addr: SocketAddr,
    servers: JoinSet<()>,
    stop: DropGuard,
}

impl Receiver {
    /// Begins to listen.
    ///
    /// # Errors
    /// If one of the addresses can't be bound.
    pub async fn start(options: ReceiverOptions) -> anyhow::Result<Self> {
        let grpc_listener = listen(options.otlp_grpc).await?;
        let http_listener = listen(options.http).await?;
        let otlp_grpc_addr = grpc_listener.local_addr()?;
        let http_addr = http_listener.local_addr()?;
        let store = SharedStore(Arc::new(RwLock::new(SpanStore::new(options.capacity))));
        let stop = CancellationToken::new();
        let mut servers = JoinSet::new();
        servers.spawn(serve_grpc(grpc_listener, store.clone(), stop.clone()));
        servers.spawn(serve_http(http_listener, store, stop.clone()));
        Ok(Self {
            otlp_grpc_addr,
            http_addr,
            servers,
            stop: stop.drop_guard(),
        })
    }

    /// Stops listening, lets requests under way finish for a second, and forgets the spans.
    pub async fn stop(mut self) {
        drop(self.stop);
        let all_ended = async { while self.servers.join_next().await.is_some() {} };
        // What is left after that is cut when the set is dropped.
        let _ = tokio::time::timeout(STOP_DEADLINE, all_ended).await;
    }
}

/// The store, shared by both servers.
#[derive(Clone)]
pub(crate) struct SharedStore(Arc<RwLock<SpanStore>>);

impl SharedStore {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, SpanStore> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, SpanStore> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}"))
}

async fn serve_grpc(listener: TcpListener, store: SharedStore, stop: CancellationToken) {
    let service = TraceServiceServer::new(TraceReceiver { store })
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // It fails only if accepting does, and then the exporters see it.
    let _ = Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await;
}

async fn serve_http(listener: TcpListener, store: SharedStore, stop: CancellationToken) {
    let _ = axum::serve(listener, http::router(store))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
}
