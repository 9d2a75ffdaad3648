//! Snapshots of lanes' memories: recovery begins at the newest.

use async_trait::async_trait;
use domain::LaneId;
use domain::lane::{Lane, Link};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::chain::as_stored;
use crate::lane_lease::number;
use crate::{Database, Error};

/// How large a part is: far below what one value may have, and what one page of memory is worth.
const PART: usize = 1 << 20;

impl Database {
    /// The lane as its newest snapshot tells it, if there is one that this program can read.
    pub(crate) async fn newest_snapshot(
        &self,
        connection: &mut PgConnection,
        lane: LaneId,
    ) -> Result<Option<Lane>, Error> {
        const SELECT: &str = "select parts, body from lane_snapshot where lane = $1
             and n = (select max(n) from lane_snapshot where lane = $1) order by part";
        let statement = sqlx::query_as(SELECT)
            .bind(number(lane))
            .fetch_all(connection);
        let parts: Vec<(i16, Vec<u8>)> = self.timed("snapshot_read", "select", statement).await?;
        let Some((count, _)) = parts.first() else {
            return Ok(None);
        };
        if usize::try_from(*count) != Ok(parts.len()) {
            return Err(damaged(
                lane,
                &format!("{} of {count} parts are there", parts.len()),
            ));
        }
        let body: Vec<u8> = parts.into_iter().flat_map(|(_, body)| body).collect();
        let memory = Lane::from_snapshot(lane, &body);
        memory
            .map(Some)
            .map_err(|error| damaged(lane, &error.to_string()))
    }
}

/// Snapshots of lanes' memories, written.
#[async_trait]
pub trait WriteSnapshots: Send + Sync {
    /// Stores the bytes of a lane's memory as it was after a row, and forgets all but the one before. If the
    /// row isn't there, since the database lost it or nobody needs it any more, nothing is stored. Says whether
    /// it was.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn write_snapshot(&self, lane: LaneId, row: Link, body: &[u8]) -> Result<bool, Error>;
}

#[async_trait]
impl WriteSnapshots for Database {
    async fn write_snapshot(&self, lane: LaneId, row: Link, body: &[u8]) -> Result<bool, Error> {
        const INSERT: &str = "insert into lane_snapshot (lane, n, part, parts, body)
             select $1, $2, p.place - 1, cardinality($3), p.body
             from unnest($3::bytea[]) with ordinality p (body, place)
             where exists (select from chain where lane = $1 and n = $2 and batch = $4)
             on conflict do nothing";
        const FORGET: &str = "delete from lane_snapshot where lane = $1
             and n < (select max(n) from lane_snapshot where lane = $1 and n < $2)";
        let parts: Vec<&[u8]> = body.chunks(PART).collect();
        let insert = sqlx::query(INSERT)
            .bind(number(lane))
            .bind(as_stored(row.n))
            .bind(parts)
            .bind(Uuid::from_u128(row.batch))
            .execute(&self.pool);
        let stored = self.timed("snapshot_write", "insert", insert).await?;
        let forget = sqlx::query(FORGET)
            .bind(number(lane))
            .bind(as_stored(row.n))
            .execute(&self.pool);
        self.timed("snapshot_forget", "delete", forget).await?;
        Ok(stored.rows_affected() > 0)
    }
}

fn damaged(lane: LaneId, what: &str) -> Error {
    Error::Inconsistent {
        table: "lane_snapshot",
        what: format!("lane {lane}: {what}"),
    }
}
