//! Where the first schedulers are looked for.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use tokio::net::lookup_host;

/// `http://host:port`; a name with several addresses counts as several seeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed {
    host: String,
    port: u16,
}

impl Seed {
    /// The addresses that the host has just now, each as `http://address:port`; none if its name
    /// can't be resolved.
    pub(crate) async fn addresses(&self) -> Vec<String> {
        match lookup_host((self.host.as_str(), self.port)).await {
            Ok(found) => found.map(|address| format!("http://{address}")).collect(),
            Err(error) => {
                tracing::debug!(event = "seed_unresolved", seed = %self, %error, "no address");
                Vec::new()
            }
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "http://[{}]:{}", self.host, self.port);
        }
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
        let is_plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
        match (uri.host(), uri.port_u16()) {
            (Some(host), Some(port)) if is_plain => {
                let host = host
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned();
                Ok(Self { host, port })
            }
            _ => Err(format!("{text:?}: expected http://host:port")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_scheme_host_and_port() {
        for good in [
            "http://scheduler:7070",
            "http://10.0.0.1:1",
            "http://[::1]:7070",
        ] {
            assert_eq!(good.parse::<Seed>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "scheduler:7070",
            "http://scheduler",
            "https://a:1",
            "http://a:1/b",
        ] {
            assert!(bad.parse::<Seed>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_literal_address_is_one_seed() {
        let seed: Seed = "http://127.0.0.1:7070".parse().unwrap();
        assert_eq!(seed.addresses().await, ["http://127.0.0.1:7070"]);
    }
}
