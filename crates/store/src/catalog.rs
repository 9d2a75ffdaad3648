//! Configuration: tenants, queues, job types, retry policies, API keys. Numbers stand for names in all
//! hot rows.

use async_trait::async_trait;
use std::time::Duration;

use domain::{Backoff, Growth, LaneId, RetryPolicy};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::lane_lease::lane_id;
use crate::leader::micros;
use crate::{Database, Error, Options, QueueOptions};

/// A queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Its number.
    pub number: i32,
    /// Its tenant's number.
    pub tenant: i32,
    /// Its name.
    pub name: String,
    /// Its lanes, one for each slice.
    pub lanes: Vec<LaneId>,
}

/// An API key, by its public part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiKey {
    /// The public part.
    pub id: String,
    /// SHA-256 of the secret part.
    pub secret_sha256: [u8; 32],
    /// The tenant's number; 0: all.
    pub tenant: i32,
    /// What it may do, as proto's numbers.
    pub scopes: Vec<i16>,
}

type QueueRow = (i32, i32, String, Vec<i16>);

impl Queue {
    fn from_row((number, tenant, name, lanes): QueueRow) -> Self {
        Self {
            number,
            tenant,
            name,
            lanes: lanes.into_iter().map(lane_id).collect(),
        }
    }
}

impl Database {
    /// The tenant's number, made if there is none of this name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn ensure_tenant(&self, name: &str) -> Result<i32, Error> {
        self.ensure_tenant_with(name, None).await
    }

    /// The queue of this name, made on `lanes` if the tenant has none; an existing one keeps its own.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn ensure_queue(
        &self,
        tenant: i32,
        name: &str,
        lanes: &[LaneId],
    ) -> Result<(), Error> {
        let options = QueueOptions::default();
        self.ensure_queue_with(tenant, name, lanes, options).await
    }

    /// Makes a key, or makes an existing one of this id like it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn put_key(&self, key: &ApiKey) -> Result<(), Error> {
        const UPSERT: &str = "insert into api_key (id, secret_sha256, tenant, scopes)
             values ($1, $2, $3, $4)
             on conflict (id) do update set secret_sha256 = excluded.secret_sha256,
                 tenant = excluded.tenant, scopes = excluded.scopes";
        let statement = sqlx::query(UPSERT)
            .bind(&key.id)
            .bind(key.secret_sha256.as_slice())
            .bind(key.tenant)
            .bind(&key.scopes)
            .execute(&self.pool);
        self.timed("key_put", "insert", statement).await?;
        Ok(())
    }
}

/// Names and their numbers, policies and keys.
#[async_trait]
pub trait KnowNames: Send + Sync {
    /// A tenant's name.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn tenant_name(&self, tenant: i32) -> Result<Option<String>, Error>;

    /// A tenant's queue by name.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn queue_by_name(&self, tenant: i32, name: &str) -> Result<Option<Queue>, Error>;

    /// All queues of a tenant.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn queues_of(&self, tenant: i32) -> Result<Vec<Queue>, Error>;

    /// A queue by number.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn queue_by_number(&self, queue: i32) -> Result<Option<Queue>, Error>;

    /// The options of all queues and tenants. A storage of which nothing can be set has none.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn options(&self) -> Result<Options, Error> {
        Ok(Options::default())
    }

    /// Makes job types known; those that are stay as they are. Tenant 0 announces them for all.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn announce_types(&self, tenant: i32, names: &[String]) -> Result<(), Error>;

    /// The number of a type that is known for the tenant, or for all.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn type_number(&self, tenant: i32, name: &str) -> Result<Option<i32>, Error>;

    /// All numbers that stand for a type of the tenant: its own, and that of what is known for all.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn type_numbers(&self, tenant: i32, name: &str) -> Result<Vec<i32>, Error>;

    /// A type's name.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn type_name(&self, job_type: i32) -> Result<Option<String>, Error>;

    /// The number of a retry policy, made if no equal one is known.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn policy_number(&self, policy: &RetryPolicy) -> Result<i32, Error>;

    /// The retry policy of a number.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn policy(&self, number: i32) -> Result<Option<RetryPolicy>, Error>;

    /// The key of this id, unless it is revoked.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn key(&self, id: &str) -> Result<Option<ApiKey>, Error>;
}

#[async_trait]
impl KnowNames for Database {
    async fn tenant_name(&self, tenant: i32) -> Result<Option<String>, Error> {
        let statement = sqlx::query_scalar("select name from tenant where number = $1")
            .bind(tenant)
            .fetch_optional(&self.pool);
        self.timed("tenant_name", "select", statement).await
    }

    async fn queue_by_name(&self, tenant: i32, name: &str) -> Result<Option<Queue>, Error> {
        const SELECT: &str =
            "select number, tenant, name, lanes from queue where tenant = $1 and name = $2";
        let statement = sqlx::query_as(SELECT)
            .bind(tenant)
            .bind(name)
            .fetch_optional(&self.pool);
        Ok(self
            .timed("queue_by_name", "select", statement)
            .await?
            .map(Queue::from_row))
    }

    async fn queues_of(&self, tenant: i32) -> Result<Vec<Queue>, Error> {
        const SELECT: &str = "select number, tenant, name, lanes from queue where tenant = $1";
        let statement = sqlx::query_as(SELECT).bind(tenant).fetch_all(&self.pool);
        let queues: Vec<QueueRow> = self.timed("queues_of", "select", statement).await?;
        Ok(queues.into_iter().map(Queue::from_row).collect())
    }

    async fn queue_by_number(&self, queue: i32) -> Result<Option<Queue>, Error> {
        const SELECT: &str = "select number, tenant, name, lanes from queue where number = $1";
        let statement = sqlx::query_as(SELECT)
            .bind(queue)
            .fetch_optional(&self.pool);
        Ok(self
            .timed("queue_by_number", "select", statement)
            .await?
            .map(Queue::from_row))
    }

    async fn options(&self) -> Result<Options, Error> {
        self.read_options().await
    }

    async fn announce_types(&self, tenant: i32, names: &[String]) -> Result<(), Error> {
        // Only what is missing is inserted: ON CONFLICT alone would use up numbers at every Hello.
        const INSERT: &str = "insert into job_type (tenant, name)
             select $1, n from unnest($2::text[]) n
             where not exists (select from job_type t where t.tenant = $1 and t.name = n)
             on conflict do nothing";
        let statement = sqlx::query(INSERT)
            .bind(tenant)
            .bind(names)
            .execute(&self.pool);
        self.timed("types_announce", "insert", statement).await?;
        Ok(())
    }

    async fn type_number(&self, tenant: i32, name: &str) -> Result<Option<i32>, Error> {
        const SELECT: &str = "select number from job_type where tenant in ($1, 0) and name = $2
             order by tenant desc limit 1";
        let statement = sqlx::query_scalar(SELECT)
            .bind(tenant)
            .bind(name)
            .fetch_optional(&self.pool);
        self.timed("type_number", "select", statement).await
    }

    async fn type_numbers(&self, tenant: i32, name: &str) -> Result<Vec<i32>, Error> {
        const SELECT: &str = "select number from job_type where tenant in ($1, 0) and name = $2";
        let statement = sqlx::query_scalar(SELECT)
            .bind(tenant)
            .bind(name)
            .fetch_all(&self.pool);
        self.timed("type_numbers", "select", statement).await
    }

    async fn type_name(&self, job_type: i32) -> Result<Option<String>, Error> {
        let statement = sqlx::query_scalar("select name from job_type where number = $1")
            .bind(job_type)
            .fetch_optional(&self.pool);
        self.timed("type_name", "select", statement).await
    }

    async fn policy_number(&self, policy: &RetryPolicy) -> Result<i32, Error> {
        const INSERT: &str =
            "insert into retry_policy (max_attempts, growth, initial_us, multiplier,
                 max_us, jitter, max_lost, total_us)
             values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing";
        const SELECT: &str = "select number from retry_policy where max_attempts = $1 and growth = $2
             and initial_us = $3 and multiplier = $4 and max_us = $5 and jitter = $6 and max_lost = $7
             and total_us = $8";
        let small = |number: u16| i16::try_from(number).unwrap_or(i16::MAX);
        let bound = |sql: &'static str| {
            sqlx::query_scalar::<_, i32>(sql)
                .bind(small(policy.max_attempts))
                .bind(policy.backoff.growth as i16)
                .bind(micros(policy.backoff.initial))
                .bind(policy.backoff.multiplier)
                .bind(micros(policy.backoff.max))
                .bind(policy.backoff.jitter)
                .bind(small(policy.max_lost))
                .bind(micros(policy.total.unwrap_or_default()))
        };
        let find = || bound(SELECT).fetch_optional(&self.pool);
        if let Some(found) = self.timed("policy_number", "select", find()).await? {
            return Ok(found);
        }
        let insert = bound(INSERT).fetch_optional(&self.pool);
        self.timed("policy_insert", "insert", insert).await?;
        let found = self.timed("policy_number", "select", find()).await?;
        let what = format!("{policy:?} vanished");
        found.ok_or(Error::Inconsistent {
            table: "retry_policy",
            what,
        })
    }

    async fn policy(&self, number: i32) -> Result<Option<RetryPolicy>, Error> {
        const SELECT: &str = "select max_attempts, growth, initial_us, multiplier, max_us, jitter,
             max_lost, total_us from retry_policy where number = $1";
        let statement = sqlx::query(SELECT).bind(number).fetch_optional(&self.pool);
        let row = self.timed("policy", "select", statement).await?;
        row.as_ref().map(read_policy).transpose()
    }

    async fn key(&self, id: &str) -> Result<Option<ApiKey>, Error> {
        const SELECT: &str = "select secret_sha256, tenant, scopes from api_key
             where id = $1 and revoked_at is null";
        let statement = sqlx::query_as(SELECT).bind(id).fetch_optional(&self.pool);
        let row: Option<(Vec<u8>, i32, Vec<i16>)> = self.timed("key", "select", statement).await?;
        let Some((secret, tenant, scopes)) = row else {
            return Ok(None);
        };
        let secret_sha256 = secret.try_into().map_err(|_| Error::Inconsistent {
            table: "api_key",
            what: format!("{id}: its hash has not 32 bytes"),
        })?;
        Ok(Some(ApiKey {
            id: id.to_owned(),
            secret_sha256,
            tenant,
            scopes,
        }))
    }
}

fn read_policy(row: &PgRow) -> Result<RetryPolicy, Error> {
    let read = Error::of("policy");
    let duration = |us: i64| Duration::from_micros(u64::try_from(us).unwrap_or(0));
    let small = |number: i16| u16::try_from(number).unwrap_or(0);
    let growth: i16 = row.try_get(1).map_err(&read)?;
    let growth = Growth::from_number(i32::from(growth)).ok_or_else(|| Error::Inconsistent {
        table: "retry_policy",
        what: format!("growth {growth}"),
    })?;
    let total: i64 = row.try_get(7).map_err(&read)?;
    Ok(RetryPolicy {
        max_attempts: small(row.try_get(0).map_err(&read)?).max(1),
        max_lost: small(row.try_get(6).map_err(&read)?),
        backoff: Backoff {
            growth,
            initial: duration(row.try_get(2).map_err(&read)?),
            multiplier: row.try_get(3).map_err(&read)?,
            max: duration(row.try_get(4).map_err(&read)?),
            jitter: row.try_get(5).map_err(&read)?,
        },
        total: (total > 0).then(|| duration(total)),
    })
}
