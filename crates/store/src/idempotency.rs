//! Idempotency keys, read; they are written with the executions that they name.

use domain::ExecutionId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Database, Error};

/// What is known of an idempotency key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownKey {
    /// The key's hash.
    pub key: [u8; 16],
    /// Of what was to be done.
    pub fingerprint: i64,
    /// The execution that it names.
    pub id: ExecutionId,
}

impl Database {
    pub(crate) async fn known_keys(
        &self,
        connection: &mut PgConnection,
        keys: &[[u8; 16]],
    ) -> Result<Vec<KnownKey>, Error> {
        const SELECT: &str = "select distinct key, fingerprint, id from idempotency
             where key = any($1) and win >= idempotency_window(now() - interval '1 minute') - 24";
        let keys: Vec<Uuid> = keys.iter().copied().map(Uuid::from_bytes).collect();
        let statement = sqlx::query_as(SELECT).bind(keys).fetch_all(connection);
        let rows: Vec<(Uuid, i64, Uuid)> = self.timed("keys_known", "select", statement).await?;
        let known = rows.into_iter().map(|(key, fingerprint, id)| KnownKey {
            key: key.into_bytes(),
            fingerprint,
            id: ExecutionId::from_bytes(id.into_bytes()),
        });
        Ok(known.collect())
    }
}
