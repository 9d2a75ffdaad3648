//! The gRPC health service beside the readiness it follows.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus::Registry;
use service::{HeadSampler, Process, Readiness, ServiceName, SpanSink};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn process() -> Process {
    Process {
        name: ServiceName::Scheduler,
        instance_id: "scheduler-1".to_owned(),
        registry: Registry::new(),
        spans: SpanSink::disabled(),
        sampler: HeadSampler::new(0.0),
        readiness: Readiness::new(),
        shutdown: CancellationToken::new(),
        shutdown_grace: Duration::ZERO,
        admin_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
    }
}

#[tokio::test]
async fn a_watcher_of_the_grpc_health_sees_every_turn_of_the_readiness() {
    let process = process();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = service::channel(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let router = service::server().add_service(service::health(&process).await);
    tokio::spawn(service::serve_with_drain(
        router,
        listener,
        process.shutdown.clone(),
        process.shutdown_grace,
    ));

    let whole_server = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = HealthClient::new(channel)
        .watch(whole_server)
        .await
        .unwrap()
        .into_inner();
    let mut turns = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(turns().await as i32, ServingStatus::NotServing as i32);
    process.readiness.set("lanes", Ok(()));
    assert_eq!(turns().await as i32, ServingStatus::Serving as i32);
    process.readiness.set("lanes", Err("lost".to_owned()));
    assert_eq!(turns().await as i32, ServingStatus::NotServing as i32);
    process.shutdown.cancel();
}
