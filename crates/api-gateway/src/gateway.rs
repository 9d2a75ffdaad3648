//! The gateway, put together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domain::limits;
use proto::v1::execution_service_server::ExecutionServiceServer;
use proto::v1::fleet_service_server::FleetServiceServer;
use service::Process;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::TcpIncoming;

use crate::cluster_view::ClusterView;
use crate::config::Args;
use crate::edge::{Edge, HealthService, Parts};
use crate::executions::Executions;
use crate::fleet::Fleet;
use crate::keys::Keys;
use crate::metrics::CallMetrics;
use crate::observed_call::Observer;
use crate::readiness;
use crate::room::Room;
use crate::scheduler_link::ServiceToken;
use crate::seeds::Seed;
use crate::view_watcher::ViewWatcher;

/// Calls of one connection at a time; more wait at the client.
const STREAMS_PER_CONNECTION: u32 = 1_000;
/// What of the grace is left for the rest of the process to end in.
const REST_OF_GRACE: Duration = Duration::from_millis(500);

/// What a gateway needs to know.
#[derive(Debug)]
pub struct Settings {
    pub(crate) seeds: Vec<Seed>,
    pub(crate) token: ServiceToken,
}

/// Runs a gateway until its process shuts down.
///
/// # Errors
/// Its arguments are wrong, its address can't be listened on, or its server failed.
pub async fn run(process: Process, args: Args) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let listener = TcpListener::bind(args.listen_addr).await;
    let listener = listener.with_context(|| format!("LISTEN_ADDR: {}", args.listen_addr))?;
    let address = listener.local_addr()?;
    let admin_address = process.admin_addr;
    tracing::info!(event = "listening", %address, %admin_address, "taking calls");
    serve(process, settings, listener).await
}

/// Serves calls on `listener` until the process shuts down; then those under way may end.
///
/// # Errors
/// The server failed.
pub async fn serve(
    process: Process,
    settings: Settings,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let watcher = ViewWatcher::new(settings.seeds, settings.token);
    let (views, sight) = (watcher.views(), watcher.sight());
    let cluster = ClusterView::new(views.clone());
    let readiness = readiness::report(process.readiness.clone(), views, sight);
    let _following = AbortOnDropHandle::new(tokio::spawn(watcher.run()));
    let _judging = AbortOnDropHandle::new(tokio::spawn(readiness));

    let edge = assemble(&process, cluster).await?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let shutdown = process.shutdown.clone();
    let serving = service::server()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .serve_with_incoming_shutdown(edge, incoming, shutdown.clone().cancelled_owned());
    let grace_is_over = async {
        shutdown.cancelled().await;
        tokio::time::sleep(process.shutdown_grace.saturating_sub(REST_OF_GRACE)).await;
    };
    tokio::select! {
        served = serving => served.context("the gRPC server failed"),
        () = grace_is_over => {
            tracing::warn!(event = "calls_cut_off", "some calls didn't end within the grace");
            Ok(())
        }
    }
}

async fn assemble(process: &Process, cluster: ClusterView) -> anyhow::Result<Edge> {
    let executions = Executions::new(cluster.clone(), process.shutdown.clone());
    let executions =
        ExecutionServiceServer::new(executions).max_decoding_message_size(limits::MAX_BATCH_BYTES);
    let fleet = FleetServiceServer::new(Fleet::new(cluster.clone()));
    let health = HealthService::new(service::health(process).await);
    let metrics = CallMetrics::new(&process.registry)?;
    Ok(Edge::new(Parts {
        executions,
        fleet,
        health,
        keys: Keys::new(cluster, &process.registry)?,
        room: Room::new(),
        observer: Arc::new(Observer {
            metrics,
            spans: process.spans.clone(),
        }),
        sampler: process.sampler,
    }))
}
