//! What all gRPC servers and channels have in common.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::process::Process;
use crate::readiness::State;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that vanished without a word is noticed after the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2's default of 64 KiB makes a large message wait for several round trips.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A channel to `address`, such as `http://10.0.0.7:7070`. It connects at the first call and
/// again after a loss; a peer that stopped answering is noticed within ten seconds while a call
/// or stream is open. Calls have no deadline of their own, and messages tonic's default limit:
/// set both where they are known. Needs to be called on a runtime.
///
/// # Errors
/// If `address` is no http URL.
pub fn channel(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .with_context(|| format!("{address:?} is no address such as http://host:7070"))?;
    if endpoint.uri().scheme_str() != Some("http") {
        anyhow::bail!("{address:?} is no address such as http://host:7070: TLS isn't built in");
    }
    let endpoint = endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // Idle channels are many and tell nothing; their next call finds out.
        .keep_alive_while_idle(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(endpoint.connect_lazy())
}

/// A server to which services are added; serve it with
/// [`serve_with_drain`](crate::serve_with_drain), which also sets TCP_NODELAY on what it accepts.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// The token of an `authorization: Bearer …` header.
pub fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let (scheme, token) = metadata
        .get("authorization")?
        .to_str()
        .ok()?
        .split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The gRPC health service, whose answer for the server as a whole (the empty service name)
/// follows the process' readiness.
pub async fn health(process: &Process) -> HealthServer<impl Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    let mut changes = process.readiness.watch();
    report(&reporter, &mut changes).await;
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            report(&reporter, &mut changes).await;
        }
    });
    service
}

async fn report(reporter: &HealthReporter, changes: &mut watch::Receiver<State>) {
    let ready = changes.borrow_and_update().check().is_ok();
    let status = if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    reporter.set_service_status("", status).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(value: &'static str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", value.parse().unwrap());
        metadata
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&authorization("Bearer wk_1")), Some("wk_1"));
        assert_eq!(bearer(&authorization("bearer  wk_1")), Some("wk_1"));
        for other in ["Basic wk_1", "Bearer", "Bearer ", "wk_1"] {
            assert_eq!(bearer(&authorization(other)), None, "{other:?}");
        }
        assert_eq!(bearer(&MetadataMap::new()), None);
    }

    #[tokio::test]
    async fn only_plain_http_addresses_make_a_channel() {
        assert!(channel("http://127.0.0.1:7070").is_ok());
        for other in ["https://host:7070", "host:7070", "7070", ""] {
            assert!(channel(other).is_err(), "{other:?}");
        }
    }
}
