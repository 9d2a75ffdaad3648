//! A gateway in this process, and clients of it.

use std::net::SocketAddr;
use std::time::Duration;

use api_gateway::Args;
use clap::Parser as _;
use proto::v1::Submission;
use proto::v1::execution_service_client::ExecutionServiceClient;
use service::{HeadSampler, Process, Readiness, ServiceName, SpanSink};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::scripted_scheduler::{SECRET, SERVICE_TOKEN, SUBMIT_AND_READ};

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct RunningGateway {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    pub(crate) served: JoinHandle<anyhow::Result<()>>,
}

impl RunningGateway {
    /// A gateway that begins with these seeds and may not have found any of them yet.
    pub(crate) async fn start(seeds: &[&str]) -> Self {
        Self::start_with_token(seeds, SERVICE_TOKEN).await
    }

    /// One that shows schedulers this token.
    pub(crate) async fn start_with_token(seeds: &[&str], token: &str) -> Self {
        let seeds = seeds.join(",");
        let args = [
            "api-gateway",
            "--schedulers",
            &seeds,
            "--service-token",
            token,
        ];
        let settings = Args::try_parse_from(args).unwrap().settings().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let process = Process {
            name: ServiceName::ApiGateway,
            instance_id: "api-gateway-test".to_owned(),
            registry: prometheus::Registry::new(),
            spans: SpanSink::disabled(),
            sampler: HeadSampler::new(0.0),
            readiness: Readiness::new(),
            shutdown: CancellationToken::new(),
            shutdown_grace: DEADLINE,
            admin_addr: address,
        };
        let served = tokio::spawn(api_gateway::serve(process.clone(), settings, listener));
        Self {
            address,
            process,
            served,
        }
    }

    /// A gateway that has found one of its seeds.
    pub(crate) async fn ready(seeds: &[&str]) -> Self {
        let gateway = Self::start(seeds).await;
        gateway.until(ServingStatus::Serving).await;
        gateway
    }

    /// Waits until its health service says so.
    pub(crate) async fn until(&self, status: ServingStatus) {
        let mut health = HealthClient::new(self.channel());
        let request = HealthCheckRequest {
            service: String::new(),
        };
        let mut statuses = health.watch(request).await.unwrap().into_inner();
        within(async { while statuses.message().await.unwrap().unwrap().status() != status {} })
            .await;
    }

    pub(crate) fn channel(&self) -> Channel {
        service::channel(&format!("http://{}", self.address)).unwrap()
    }

    pub(crate) fn client(&self) -> ExecutionServiceClient<Channel> {
        ExecutionServiceClient::new(self.channel())
    }

    /// The value of a counter with these label values.
    pub(crate) fn counter(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.process.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        let is_it = |metric: &&prometheus::proto::Metric| {
            let values: Vec<_> = metric
                .get_label()
                .iter()
                .map(|label| label.value())
                .collect();
            labels.iter().all(|label| values.contains(label))
        };
        family
            .get_metric()
            .iter()
            .filter(is_it)
            .map(|it| it.get_counter().get_value())
            .sum()
    }
}

/// The future's output, which must come before the deadline.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it takes too long")
}

/// The message with the key that may do everything a client does.
pub(crate) fn signed<T>(message: T) -> Request<T> {
    with_authorization(message, &format!("Bearer wk_{SUBMIT_AND_READ}_{SECRET}"))
}

pub(crate) fn with_authorization<T>(message: T, authorization: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", authorization.parse().unwrap());
    request
}

pub(crate) fn submission(payload: &str) -> Submission {
    let payload = payload.to_owned().into();
    Submission {
        job_type: "mail.send".to_owned(),
        payload,
        ..Submission::default()
    }
}
