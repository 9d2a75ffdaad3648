//! What people may set of queues and tenants, and may change at any time.

use std::collections::HashMap;

use domain::LaneId;

use crate::lane_lease::number;
use crate::{Database, Error};

/// The options of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueOptions {
    /// A higher priority goes first, always.
    pub strict: bool,
    /// How many executions may wait in it; more are refused. `None`: no limit.
    pub max_depth: Option<u64>,
    /// How many hours its failures and dead letters are kept, if that is longer than everything else is.
    pub failures_hours: Option<u32>,
}

/// The options of all queues and tenants, by number; those without any aren't in it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// Of queues.
    pub queues: HashMap<i32, QueueOptions>,
    /// How many executions may wait in all queues of a tenant.
    pub tenant_depths: HashMap<i32, u64>,
}

impl Options {
    /// Whether a higher priority of this queue goes first, always.
    #[must_use]
    pub fn is_strict(&self, queue: i32) -> bool {
        self.queues.get(&queue).is_some_and(|queue| queue.strict)
    }
}

impl Database {
    /// The same as [`ensure_tenant`](Self::ensure_tenant), where a new one has this limit.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn ensure_tenant_with(
        &self,
        name: &str,
        max_depth: Option<u64>,
    ) -> Result<i32, Error> {
        const INSERT: &str =
            "insert into tenant (name, max_depth) values ($1, $2) on conflict do nothing";
        let statement = sqlx::query(INSERT)
            .bind(name)
            .bind(max_depth.map(limit))
            .execute(&self.pool);
        self.timed("tenant_insert", "insert", statement).await?;
        let statement = sqlx::query_scalar("select number from tenant where name = $1")
            .bind(name)
            .fetch_one(&self.pool);
        self.timed("tenant_number", "select", statement).await
    }

    /// The same as [`ensure_queue`](Self::ensure_queue), where a new one has these options.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn ensure_queue_with(
        &self,
        tenant: i32,
        name: &str,
        lanes: &[LaneId],
        options: QueueOptions,
    ) -> Result<(), Error> {
        const INSERT: &str = "insert into queue (tenant, name, lanes, strict, max_depth,
                 failures_hours) values ($1, $2, $3, $4, $5, $6) on conflict do nothing";
        let lanes: Vec<i16> = lanes.iter().map(|lane| number(*lane)).collect();
        let statement = sqlx::query(INSERT)
            .bind(tenant)
            .bind(name)
            .bind(lanes)
            .bind(options.strict)
            .bind(options.max_depth.map(limit))
            .bind(options.failures_hours.map(hours))
            .execute(&self.pool);
        self.timed("queue_insert", "insert", statement).await?;
        Ok(())
    }

    pub(crate) async fn read_options(&self) -> Result<Options, Error> {
        const QUEUES: &str = "select number, strict, max_depth, failures_hours from queue
             where strict or max_depth is not null or failures_hours is not null";
        const TENANTS: &str = "select number, max_depth from tenant where max_depth is not null";
        let statement = sqlx::query_as(QUEUES).fetch_all(&self.pool);
        let queues: Vec<(i32, bool, Option<i64>, Option<i32>)> =
            self.timed("queue_options", "select", statement).await?;
        let statement = sqlx::query_as(TENANTS).fetch_all(&self.pool);
        let tenants: Vec<(i32, i64)> = self.timed("tenant_options", "select", statement).await?;
        let depth = |stored: i64| u64::try_from(stored).unwrap_or(0);
        let queues = queues
            .into_iter()
            .map(|(number, strict, max_depth, hours)| {
                let options = QueueOptions {
                    strict,
                    max_depth: max_depth.map(depth),
                    failures_hours: hours.and_then(|hours| u32::try_from(hours).ok()),
                };
                (number, options)
            });
        let tenants = tenants.into_iter();
        Ok(Options {
            queues: queues.collect(),
            tenant_depths: tenants
                .map(|(number, most)| (number, depth(most)))
                .collect(),
        })
    }
}

fn hours(hours: u32) -> i32 {
    i32::try_from(hours).unwrap_or(i32::MAX)
}

fn limit(depth: u64) -> i64 {
    i64::try_from(depth).unwrap_or(i64::MAX)
}
