//! A gRPC server through its shutdown, with real calls and streams open.
#![expect(clippy::unwrap_used, reason = "a test fails by panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const LONG: Duration = Duration::from_secs(60);

/// A call that is under way from the first to the second meeting at the barrier.
struct Held(Arc<Barrier>);

#[tonic::async_trait]
impl TraceService for Held {
    async fn export(
        &self,
        _request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.wait().await;
        self.0.wait().await;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

struct Server {
    address: SocketAddr,
    barrier: Arc<Barrier>,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    async fn start(grace: Duration) -> Self {
        let barrier = Arc::new(Barrier::new(2));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router =
            service::server().add_service(TraceServiceServer::new(Held(Arc::clone(&barrier))));
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(service::serve_with_drain(
            router,
            listener,
            shutdown.clone(),
            grace,
        ));
        Self {
            address,
            barrier,
            shutdown,
            served,
        }
    }

    /// Makes a call and waits until the server has it.
    async fn call(&self) -> JoinHandle<Result<Response<ExportTraceServiceResponse>, Status>> {
        let channel = service::channel(&format!("http://{}", self.address)).unwrap();
        let mut client = TraceServiceClient::new(channel);
        let request = ExportTraceServiceRequest::default();
        let call = tokio::spawn(async move { client.export(request).await });
        self.barrier.wait().await;
        call
    }

    async fn ends(self) {
        let served = tokio::time::timeout(Duration::from_secs(5), self.served).await;
        served.expect("the server doesn't end").unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_call_under_way_finishes_and_nothing_new_is_accepted() {
    let server = Server::start(LONG).await;
    let call = server.call().await;
    server.shutdown.cancel();
    let closed = async { while TcpStream::connect(server.address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), closed)
        .await
        .unwrap();
    server.barrier.wait().await;
    call.await.unwrap().unwrap();
    server.ends().await;
}

#[tokio::test]
async fn a_call_that_never_ends_is_cut_when_the_grace_is_over() {
    let grace = Duration::from_millis(200);
    let server = Server::start(grace).await;
    let call = server.call().await;
    let begun = Instant::now();
    server.shutdown.cancel();
    server.ends().await;
    assert!(begun.elapsed() >= grace);
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn connections_without_a_call_dont_hold_the_shutdown() {
    let server = Server::start(LONG).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    // Connections are accepted in turn: with this call made, the silent one is held too.
    let call = server.call().await;
    server.barrier.wait().await;
    call.await.unwrap().unwrap();
    server.shutdown.cancel();
    server.ends().await;
}
