//! Which installation is meant: flags and variables first, then what runs here for development.

use std::env;
use std::path::Path;

use cluster::DevFile;

use crate::args::Place;
use crate::client::Client;
use crate::failure::Failure;
use crate::trace_store::TraceStore;

/// The directory in which `dev` says where everything is.
const DEV_DIR: &str = ".watchwork";

/// An installation, as far as it is known.
pub(crate) struct Installation {
    place: Place,
    dev: Option<DevFile>,
}

impl Installation {
    /// The one that these arguments and this directory mean.
    pub(crate) fn new(place: Place) -> Self {
        let here = env::current_dir();
        Self {
            place,
            dev: here.ok().and_then(|here| nearest_dev_file(&here)),
        }
    }

    /// A client of its API.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let dev = self.dev.as_ref();
        let address = self.place.address.clone();
        let address = address
            .or_else(|| dev?.gateway_url.clone())
            .ok_or_else(|| {
                Failure::usage(
                    "which installation? Set WATCHWORK_ADDRESS and WATCHWORK_KEY (or --address and \
                 --key), or run `watchwork dev` in this directory",
                )
            })?;
        // The key of one installation is never sent to another.
        let own_key = dev.filter(|dev| dev.gateway_url.as_ref() == Some(&address));
        let key = self
            .place
            .key
            .clone()
            .or_else(|| Some(own_key?.key.clone()))
            .ok_or_else(|| {
                Failure::usage(format!(
                    "{address} needs a key: set WATCHWORK_KEY, or --key"
                ))
            })?;
        Client::new(&address, &key).map_err(Failure::usage)
    }

    /// Where its traces are.
    pub(crate) fn trace_store(&self) -> Result<TraceStore, Failure> {
        let known = self.place.traces.clone();
        let url = known
            .or_else(|| self.dev.as_ref()?.traces_url.clone())
            .ok_or_else(|| {
                Failure::usage(
                    "where are the traces? Set WATCHWORK_TRACES (or --traces) to the base URL of a \
                 Jaeger query API, such as http://jaeger:16686",
                )
            })?;
        TraceStore::new(&url).map_err(Failure::usage)
    }
}

/// The dev file of `start` or the nearest directory above it that has one.
fn nearest_dev_file(start: &Path) -> Option<DevFile> {
    start
        .ancestors()
        .find_map(|dir| DevFile::read(&dir.join(DEV_DIR)).ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn dev_file(gateway_url: &str) -> DevFile {
        DevFile {
            pid: 1,
            gateway_url: Some(gateway_url.to_owned()),
            tenant: "demo".to_owned(),
            key: "wk_dev".to_owned(),
            database_url: String::new(),
            traces_url: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn the_nearest_dev_file_upwards_is_found() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let dir = root.path().join(DEV_DIR);
        fs::create_dir(&dir).unwrap();
        let file = dev_file("http://127.0.0.1:1");
        fs::write(dir.join("dev.json"), serde_json::to_vec(&file).unwrap()).unwrap();
        assert_eq!(nearest_dev_file(&deep), Some(file));
    }

    #[tokio::test]
    async fn the_development_key_goes_to_no_other_installation() {
        let dev = Some(dev_file("http://127.0.0.1:1"));
        let elsewhere = Place {
            address: Some("http://prod:8080".to_owned()),
            ..Place::default()
        };
        let installation = Installation {
            place: elsewhere,
            dev: dev.clone(),
        };
        assert!(installation.client().is_err());
        let here = Installation {
            place: Place::default(),
            dev,
        };
        assert!(here.client().is_ok());
    }
}
