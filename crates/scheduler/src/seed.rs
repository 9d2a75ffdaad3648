use std::hash::{BuildHasher, BuildHasherDefault};
use std::path::Path;

use anyhow::{Context, ensure};
use domain::{LaneId, limits};
use proto::internal::v1::KeyScope;
use serde::Deserialize;
use store::{ApiKey, Database, KnowNames, QueueOptions};

use crate::credentials::ShownKey;

/// Tenants, queues and keys that a new installation begins with.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seed {
    #[serde(default)]
    tenants: Vec<SeedTenant>,
    /// Keys of workers that serve all tenants.
    #[serde(default)]
    workers: Vec<SeedKey>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct SeedTenant {
    name: String,
    /// How many executions may wait in all its queues.
    max_depth: Option<u64>,
    #[serde(default)]
    queues: Vec<SeedQueue>,
    #[serde(default)]
    keys: Vec<SeedKey>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct SeedQueue {
    name: String,
    /// How many lanes it spreads over; one keeps order and limits exact.
    #[serde(default = "one")]
    slices: u16,
    /// A higher priority goes first, always.
    #[serde(default)]
    strict: bool,
    /// How many executions may wait in it.
    max_depth: Option<u64>,
    /// How many hours its failures and dead letters are kept, if that is longer than everything else is.
    failures_hours: Option<u32>,
}

fn one() -> u16 {
    1
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct SeedKey {
    key: String,
    scopes: Vec<Scope>,
}

#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Submit,
    Read,
    Worker,
    Operate,
}

impl Seed {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("SEED_FILE {} can't be read", path.display()))?;
        serde_yaml_ng::from_str(&text)
            .with_context(|| format!("SEED_FILE {} is not a seed", path.display()))
    }

    /// Where what is there isn't what the seed says.
    pub(crate) async fn differences(&self, database: &Database) -> anyhow::Result<Vec<String>> {
        let mut tenants = Vec::new();
        for tenant in &self.tenants {
            let number = database.ensure_tenant_with(&tenant.name, tenant.max_depth);
            tenants.push((tenant, number.await?));
        }
        let options = database.options().await?;
        let mut differences = Vec::new();
        for (tenant, number) in tenants {
            let name = &tenant.name;
            if options.tenant_depths.get(&number).copied() != tenant.max_depth {
                differences.push(format!("tenant {name}: max_depth"));
            }
            for queue in &tenant.queues {
                if let Some(found) = database.queue_by_name(number, &queue.name).await? {
                    let set = options.queues.get(&found.number).copied();
                    let differing = queue.differs_from(found.lanes.len(), set.unwrap_or_default());
                    let differing = differing.into_iter();
                    differences
                        .extend(differing.map(|it| format!("queue {name}/{}: {it}", queue.name)));
                }
            }
            differences.extend(differing_keys(&tenant.keys, number, database).await?);
        }
        differences.extend(differing_keys(&self.workers, 0, database).await?);
        Ok(differences)
    }

    /// Makes what is missing; what exists stays.
    pub(crate) async fn plant(&self, database: &Database, lanes: u16) -> anyhow::Result<()> {
        for tenant in &self.tenants {
            limits::check_name("tenant", &tenant.name)?;
            let number = (database.ensure_tenant_with(&tenant.name, tenant.max_depth)).await?;
            for queue in &tenant.queues {
                limits::check_name("queue", &queue.name)?;
                ensure!(
                    (1..=lanes).contains(&queue.slices),
                    "queue {}: slices must be 1 to {lanes}, the number of lanes",
                    queue.name
                );
                let lanes = lanes_of(number, &queue.name, queue.slices, lanes);
                let options = QueueOptions {
                    strict: queue.strict,
                    max_depth: queue.max_depth,
                    failures_hours: queue.failures_hours,
                };
                let name = &queue.name;
                (database.ensure_queue_with(number, name, &lanes, options)).await?;
            }
            for key in &tenant.keys {
                database.put_key(&key.stored(number)?).await?;
            }
        }
        for key in &self.workers {
            database.put_key(&key.stored(0)?).await?;
        }
        Ok(())
    }
}

impl SeedQueue {
    /// Which options of a queue that lives in so many lanes aren't what the seed says.
    fn differs_from(&self, lanes: usize, set: QueueOptions) -> Vec<&'static str> {
        let compared = [
            ("slices", usize::from(self.slices) != lanes),
            ("strict", self.strict != set.strict),
            ("max_depth", self.max_depth != set.max_depth),
            ("failures_hours", self.failures_hours != set.failures_hours),
        ];
        let differing = compared.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(name, _)| name).collect()
    }
}

/// The keys of a tenant that exist with another secret, tenant or scopes.
async fn differing_keys(
    keys: &[SeedKey],
    tenant: i32,
    database: &Database,
) -> anyhow::Result<Vec<String>> {
    let mut differing = Vec::new();
    for key in keys {
        let said = key.stored(tenant)?;
        let Some(found) = database.key(&said.id).await? else {
            continue;
        };
        let same = found.secret_sha256 == said.secret_sha256
            && found.tenant == said.tenant
            && found.scopes == said.scopes;
        if !same {
            differing.push(format!("key {}: secret, tenant or scopes", said.id));
        }
    }
    Ok(differing)
}

impl SeedKey {
    fn stored(&self, tenant: i32) -> anyhow::Result<ApiKey> {
        let shown = ShownKey::parse(&self.key).context(
            "a key must be wk_ + 16 hex digits + _ + a secret of 32 to 128 letters and digits",
        )?;
        let scopes = self.scopes.iter().map(|scope| match scope {
            Scope::Submit => KeyScope::Submit as i16,
            Scope::Read => KeyScope::Read as i16,
            Scope::Worker => KeyScope::Worker as i16,
            Scope::Operate => KeyScope::Operate as i16,
        });
        Ok(ApiKey {
            id: shown.id.to_owned(),
            secret_sha256: shown.sha256(),
            tenant,
            scopes: scopes.collect(),
        })
    }
}

/// The lanes of a new queue: begun by its name and spread evenly, since a scheduler mostly owns
/// neighbours. Stored with the queue, never computed again.
fn lanes_of(tenant: i32, queue: &str, slices: u16, lanes: u16) -> Vec<LaneId> {
    let hash = BuildHasherDefault::<rustc_hash::FxHasher>::default().hash_one((tenant, queue));
    let (slices, lanes) = (u64::from(slices), u64::from(lanes));
    let first = hash % lanes;
    let spread = (0..slices).map(|slice| (first + slice * lanes / slices) % lanes);
    spread
        .map(|lane| LaneId(u16::try_from(lane).unwrap_or(0)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_a_queue_that_is_there_is_named() {
        let yaml = "{name: orders, slices: 4, max_depth: 10}";
        let queue: SeedQueue = serde_yaml_ng::from_str(yaml).unwrap();
        let set = QueueOptions {
            max_depth: Some(10),
            ..QueueOptions::default()
        };
        assert_eq!(queue.differs_from(4, set), [""; 0]);
        let set = QueueOptions {
            strict: true,
            failures_hours: Some(1),
            ..QueueOptions::default()
        };
        let all = ["slices", "strict", "max_depth", "failures_hours"];
        assert_eq!(queue.differs_from(1, set), all);
    }

    #[test]
    fn slices_lie_on_different_lanes_and_in_both_halves() {
        for slices in 1..=16 {
            let lanes = lanes_of(1, "default", slices, 16);
            let distinct: std::collections::BTreeSet<_> = lanes.iter().collect();
            assert_eq!(distinct.len(), usize::from(slices));
            let low = lanes.iter().filter(|lane| lane.0 < 8).count();
            assert!(
                slices == 1 || low.abs_diff(lanes.len() - low) <= 1,
                "{lanes:?}"
            );
        }
    }
}
