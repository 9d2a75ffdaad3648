//! What handlers saved, read: by the chain's word for the next attempt, the last one for people and for what is run
//! again.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::lane::CheckpointMark;
use domain::{Hour, LaneId, Micros, Progress};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::chain::as_stored;
use crate::execution::places;
use crate::lane_lease::number;
use crate::listed::{by_place_sql, by_tables, read_key};
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, ExecutionPlace, WindowMap};

/// An execution's last checkpoint, as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredCheckpoint {
    /// Which.
    pub mark: CheckpointMark,
    /// How large its state is, in bytes.
    pub size: u64,
    /// When it was recorded.
    pub at: Micros,
    /// How far the attempt was.
    pub progress: Option<Progress>,
}

impl Database {
    /// The states of checkpoints that the chain names, of a lane and a home hour; of those that are there, in the
    /// order asked for, until they make up `bytes`. The first comes however large it is.
    pub(crate) async fn select_states(
        &self,
        windows: &WindowMap,
        (lane, home): (LaneId, Hour),
        (marks, bytes): (&[(u64, CheckpointMark)], u64),
    ) -> Result<Vec<(u64, Bytes)>, Error> {
        let tables: Vec<&str> = places(windows, Table::Checkpoint, home).collect();
        let column = |of: fn(&(u64, CheckpointMark)) -> u64| -> Vec<i64> {
            marks.iter().map(of).map(as_stored).collect()
        };
        let statement = sqlx::query_as(AssertSqlSafe(states_sql(&tables)))
            .bind(number(lane))
            .bind(home.0)
            .bind(column(|(seq, _)| *seq))
            .bind(column(|(_, mark)| mark.fence))
            .bind(column(|(_, mark)| mark.number))
            .bind(as_stored(bytes))
            .fetch_all(&self.pool);
        let rows: Vec<(i64, Vec<u8>)> =
            self.timed("checkpoint_states", "select", statement).await?;
        let states = rows.into_iter();
        let states = states.map(|(seq, state)| (u64::try_from(seq).unwrap_or(0), state.into()));
        Ok(states.collect())
    }

    /// The last checkpoint of an execution, without its state.
    pub(crate) async fn select_last_checkpoint(
        &self,
        windows: &WindowMap,
        tenant: i32,
        place: ExecutionPlace,
    ) -> Result<Option<StoredCheckpoint>, Error> {
        let mut reader = self.read_for(tenant).await?;
        let tables: Vec<&str> = places(windows, Table::Checkpoint, place.home).collect();
        let sql = by_place_sql(&tables, |table| {
            last_sql(
                table,
                "octet_length(r.state)::int8, r.at, r.progress_done, r.progress_total, r.progress_note",
            )
        });
        let rows = self
            .look_up(&mut reader, "checkpoint_get", sql, &[place])
            .await?;
        let found: Vec<StoredCheckpoint> = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(found.into_iter().max_by_key(|checkpoint| checkpoint.mark))
    }

    /// Which is the last checkpoint of each execution that has one.
    pub(crate) async fn select_last_marks(
        &self,
        connection: &mut PgConnection,
        windows: &WindowMap,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), CheckpointMark>, Error> {
        let mut marks = BTreeMap::new();
        for (tables, places) in by_tables(windows, Table::Checkpoint, places) {
            let sql = by_place_sql(&tables, |table| last_sql(table, "null"));
            let rows = self.look_up(&mut *connection, "last_checkpoints", sql, &places);
            for row in rows.await? {
                let mark = read_mark(&row)?;
                let last = marks.entry(read_key(&row)?).or_insert(mark);
                *last = mark.max(*last);
            }
        }
        Ok(marks)
    }
}

/// Reads states by primary key, wherever they are. LIMIT keeps each look-up one: what was carried over is in two
/// places. The length of a state that is stored apart is known without reading it.
fn states_sql(tables: &[&str]) -> String {
    let look = |table: &&str| {
        format!(
            "select c.state from {table} c where c.lane = $1 and c.seq = s.seq and c.fence = s.fence
                 and c.number = s.number and c.win = $2"
        )
    };
    let looks: Vec<String> = tables.iter().map(look).collect();
    format!(
        "select seq, state from (
             select s.seq, c.state, sum(octet_length(c.state)) over (order by s.place)
                 - octet_length(c.state) as before
             from unnest($3::int8[], $4::int8[], $5::int8[])
                 with ordinality s (seq, fence, number, place)
             cross join lateral ({} limit 1) c
         ) c where before < $6",
        looks.join(" union all ")
    )
}

fn last_sql(table: &str, columns: &str) -> String {
    format!(
        "(select r.lane, r.seq, r.fence, r.number, {columns} from {table} r
         where r.lane = u.lane and r.seq = u.seq and r.win = u.win
         order by r.fence desc, r.number desc limit 1)"
    )
}

fn read_mark(row: &PgRow) -> Result<CheckpointMark, Error> {
    let read = Error::of("last_checkpoints");
    let (fence, number): (i64, i64) = (
        row.try_get(2).map_err(&read)?,
        row.try_get(3).map_err(&read)?,
    );
    Ok(CheckpointMark {
        fence: u64::try_from(fence).unwrap_or(0),
        number: u64::try_from(number).unwrap_or(0),
    })
}

fn read(row: &PgRow) -> Result<StoredCheckpoint, Error> {
    let read = Error::of("checkpoint_get");
    let size: i64 = row.try_get(4).map_err(&read)?;
    Ok(StoredCheckpoint {
        mark: read_mark(row)?,
        size: u64::try_from(size).unwrap_or(0),
        at: row.try_get::<Timestamp, _>(5).map_err(&read)?.0,
        progress: read_progress(row, 6)?,
    })
}

/// Three columns from a place on: done, total, note.
pub(crate) fn read_progress(row: &PgRow, from: usize) -> Result<Option<Progress>, Error> {
    let read = Error::of("progress");
    let done: Option<i64> = row.try_get(from).map_err(&read)?;
    let total: Option<i64> = row.try_get(from + 1).map_err(&read)?;
    let note: Option<String> = row.try_get(from + 2).map_err(&read)?;
    let count = |count: Option<i64>| u64::try_from(count.unwrap_or(0)).unwrap_or(0);
    Ok(done.map(|done| Progress {
        done: count(Some(done)),
        total: count(total),
        note: note.unwrap_or_default().into_boxed_str(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::Plans;

    #[tokio::test]
    async fn what_was_saved_is_looked_up_by_its_key_whatever_the_statistics_say() {
        let plans = Plans::new().await;
        let hour = plans.term.now().hour();
        let tables: Vec<&str> = places(&plans.windows, Table::Checkpoint, hour).collect();
        assert_eq!(tables.len(), 2);
        let types = "int2, int4, int8[], int8[], int8[], int8";
        let arguments = "1::int2, 1, '{1,2}', '{1,2}', '{1,2}', 10";
        let plan = plans.of(types, &states_sql(&tables), arguments).await;
        let probe = "(seq = s.seq) AND (fence = s.fence) AND (number = s.number) AND (win = $2)";
        assert_eq!(plan.matches(probe).count(), 2, "{plan}");

        let sql = by_place_sql(&tables, |table| last_sql(table, "null"));
        let plan = plans
            .of("int2[], int8[], int4[]", &sql, "'{1}', '{1}', '{1}'")
            .await;
        let probe = "Index Cond: ((lane = u.lane) AND (seq = u.seq) AND (win = u.win))";
        assert_eq!(plan.matches(probe).count(), 2, "{plan}");
        assert!(!plan.contains("Sort"), "{plan}");
    }
}
