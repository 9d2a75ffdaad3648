//! The schedulers' seed file: tenants, queues, keys.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::directory::write_private;
use crate::options::{Queue, Tenant};
use crate::secrets::Secrets;

/// Writes `<dir>/seed.yaml`. It is JSON, which is YAML too.
///
/// # Errors
/// The file can't be written.
pub(crate) fn write(dir: &Path, tenants: &[Tenant], secrets: &Secrets) -> Result<PathBuf> {
    let path = dir.join("seed.yaml");
    let tenants: Vec<Value> = tenants
        .iter()
        .map(|tenant| tenant_seed(tenant, secrets))
        .collect();
    let seed = json!({
        "tenants": tenants,
        "workers": [{"key": secrets.worker_key, "scopes": ["worker"]}],
    });
    write_private(&path, &serde_json::to_vec_pretty(&seed)?)?;
    Ok(path)
}

fn tenant_seed(tenant: &Tenant, secrets: &Secrets) -> Value {
    let queue = |queue: &Queue| {
        json!({
            "name": queue.name,
            "slices": queue.slices,
            "strict": queue.strict,
            "max_depth": queue.max_depth,
        })
    };
    let queues: Vec<Value> = tenant.queues.iter().map(queue).collect();
    json!({
        "name": tenant.name,
        "queues": queues,
        "keys": [{"key": secrets.tenant_keys[&tenant.name], "scopes": ["submit", "read", "operate"]}],
    })
}
