//! What a running cluster tells of itself, for the CLI and for Prometheus.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::directory::{write_private, write_public};
use crate::member::Member;
use crate::service::Service;

/// `dev.json` in the cluster's directory: there while the cluster runs, readable for its owner only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevFile {
    /// The process that runs the cluster.
    pub pid: u32,
    /// The API, `http://host:port` of the first gateway; none without gateways.
    pub gateway_url: Option<String>,
    /// The first tenant's name.
    pub tenant: String,
    /// The first tenant's API key.
    pub key: String,
    /// The database, with a password.
    pub database_url: String,
    /// Where traces can be looked up (Jaeger's query API), `http://host:port`; none without a
    /// receiver.
    pub traces_url: Option<String>,
    /// All processes.
    pub processes: Vec<DevProcess>,
}

/// One process in [`DevFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevProcess {
    /// `api-gateway`, `scheduler` or `worker`.
    pub service: String,
    /// For example `worker-2`.
    pub instance: String,
    /// Its process id.
    pub pid: u32,
    /// Its gRPC, `host:port`; workers have none.
    pub address: Option<String>,
    /// Its health and metrics, `host:port`.
    pub admin_address: String,
}

impl DevFile {
    /// Reads the file of the cluster that runs in `dir`.
    ///
    /// # Errors
    /// None runs there, or the file can't be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dev_path(dir);
        let text = fs::read(&path).with_context(|| {
            format!(
                "can't read {}: is a cluster running in that directory?",
                path.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_private(&dev_path(dir), &serde_json::to_vec_pretty(self)?)?;
        let targets: Vec<_> = [Service::ApiGateway, Service::Scheduler, Service::Worker]
            .into_iter()
            .map(|service| self.target_group(service))
            .collect();
        write_public(&targets_path(dir), &serde_json::to_vec_pretty(&targets)?)
    }

    /// Nothing runs any more; a file that is gone already is fine.
    pub(crate) fn remove(dir: &Path) {
        let _ = fs::remove_file(dev_path(dir));
        let _ = fs::remove_file(targets_path(dir));
    }

    /// One group of Prometheus' file_sd.
    fn target_group(&self, service: Service) -> serde_json::Value {
        let targets: Vec<&str> = self
            .processes
            .iter()
            .filter(|process| process.service == service.as_str())
            .map(|process| process.admin_address.as_str())
            .collect();
        json!({"targets": targets, "labels": {"job": format!("watchwork-{service}")}})
    }
}

impl From<&Member> for DevProcess {
    fn from(member: &Member) -> Self {
        Self {
            service: member.service().to_string(),
            instance: member.instance().to_owned(),
            pid: member.pid(),
            address: member.address(),
            admin_address: member.admin_address(),
        }
    }
}

fn dev_path(dir: &Path) -> PathBuf {
    dir.join("dev.json")
}

fn targets_path(dir: &Path) -> PathBuf {
    dir.join("prometheus-targets.json")
}
