//! Serving gRPC until the shutdown, and through its drain.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, TcpIncoming};

use crate::connection::Connection;

/// Serves `router` on `listener` until `shutdown` is cancelled. Then it accepts nothing more, lets
/// the calls under way finish for `grace`, and cuts the connections that are left: streams that
/// would never end don't hold it. Returns when every connection is closed.
///
/// # Errors
/// If the listener fails.
pub async fn serve_with_drain(
    router: Router,
    listener: TcpListener,
    shutdown: CancellationToken,
    grace: Duration,
) -> anyhow::Result<()> {
    let cut = CancellationToken::new();
    let connections = TcpIncoming::from(listener).with_nodelay(Some(true)).map({
        let (shutdown, cut) = (shutdown.clone(), cut.clone());
        move |accepted| accepted.map(|stream| Connection::new(stream, &shutdown, &cut))
    });
    let serving =
        router.serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
        tracing::warn!(
            event = "calls_cut_off",
            "calls were still open after the grace"
        );
        cut.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serving => served.context("the gRPC server failed"),
        () = deadline => Ok(()),
    }
}
