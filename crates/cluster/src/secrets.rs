//! Keys and tokens, made once for a directory and kept there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

use crate::directory::write_private;

const FILE: &str = "secrets.json";
const SECRET_LENGTH: usize = 40;

/// What the processes of one cluster show each other and their callers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Between gateways and schedulers.
    pub(crate) service_token: String,
    /// Of workers, for all tenants.
    pub(crate) worker_key: String,
    /// Of clients, by tenant.
    pub(crate) tenant_keys: BTreeMap<String, String>,
}

impl Secrets {
    /// Reads what an earlier run kept in `dir` and adds what is missing, so that keys stay good from
    /// run to run.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub(crate) fn keep_in<'a>(dir: &Path, tenants: impl Iterator<Item = &'a str>) -> Result<Self> {
        let path = dir.join(FILE);
        let mut secrets = if path.exists() {
            let text = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
            serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged: delete it", path.display()))?
        } else {
            Self {
                service_token: random_secret(SECRET_LENGTH),
                worker_key: random_key(),
                tenant_keys: BTreeMap::new(),
            }
        };
        for tenant in tenants {
            secrets
                .tenant_keys
                .entry(tenant.to_owned())
                .or_insert_with(random_key);
        }
        write_private(&path, &serde_json::to_vec_pretty(&secrets)?)?;
        Ok(secrets)
    }
}

/// Letters and digits.
pub(crate) fn random_secret(length: usize) -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(length)
        .map(char::from)
        .collect()
}

/// A key as users know it: `wk_`, 16 hex digits of public id, `_`, the secret.
fn random_key() -> String {
    format!("wk_{}_{}", random_id(), random_secret(SECRET_LENGTH))
}

/// 16 lower-case hex digits.
pub(crate) fn random_id() -> String {
    format!("{:016x}", rand::rng().random::<u64>())
}
