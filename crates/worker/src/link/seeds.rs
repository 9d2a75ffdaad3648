use std::net::SocketAddr;

use http::Uri;
use tokio::net::lookup_host;

/// The addresses that the seeds stand for: a name with several addresses is several seeds.
///
/// # Errors
/// No seed could be resolved; the text tells the last reason.
pub(super) async fn resolve(seeds: &[String]) -> Result<Vec<String>, String> {
    let mut addresses = Vec::new();
    let mut failure = "there are no seeds".to_owned();
    for seed in seeds {
        match resolve_one(seed).await {
            Ok(found) => {
                addresses.extend(found.into_iter().map(|address| format!("http://{address}")));
            }
            Err(reason) => failure = format!("{seed}: {reason}"),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        Err(failure)
    } else {
        Ok(addresses)
    }
}

async fn resolve_one(seed: &str) -> Result<Vec<SocketAddr>, String> {
    let uri: Uri = seed.parse().map_err(|error| format!("{error}"))?;
    let host = uri
        .host()
        .ok_or("there is no host in it")?
        .trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    let found = lookup_host((host, port))
        .await
        .map_err(|error| error.to_string())?;
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn seeds_become_addresses_once_each() {
        let seeds = [
            "http://127.0.0.1:7",
            "http://[::1]:8",
            "http://127.0.0.1:7",
            "nonsense",
        ];
        let found = resolve(&seeds.map(str::to_owned)).await;
        assert_eq!(found.unwrap(), ["http://127.0.0.1:7", "http://[::1]:8"]);
        assert!(
            resolve(&["nonsense".to_owned()])
                .await
                .unwrap_err()
                .starts_with("nonsense: ")
        );
    }
}
