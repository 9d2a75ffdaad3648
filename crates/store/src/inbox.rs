//! The inbox: work for lanes that the writer doesn't own.
//!
//! It is read from snapshot to snapshot: everything that the new snapshot sees and the last one didn't.
//! So a transaction that inserts early and commits late is neither missed nor waited for.

use async_trait::async_trait;
use domain::lane::{Class, DueMark, InboxMark};
use domain::{Hour, LaneId, Micros, Priority};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::batch::{NewKey, Place};
use crate::chain::as_stored;
use crate::database::{Dedicated, Purpose};
use crate::lane_lease::{lane_id, number};
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, KnownKey, NewExecution, WindowMap};

/// An execution on its way through the inbox.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The execution; its number is one of [`Poster::numbers`].
    pub execution: NewExecution,
    /// Its idempotency key.
    pub key: Option<NewKey>,
}

/// An entry of the inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InboxEntry {
    /// Its lane.
    pub lane: LaneId,
    /// The execution's number.
    pub seq: u64,
    /// The line it will wait in.
    pub class: Class,
    /// The hour of its home window.
    pub home: Hour,
    /// When it is due, if not at once.
    pub due: Option<Micros>,
}

/// What one look into the inboxes of some lanes found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxRead {
    /// Whose inbox.
    pub lane: LaneId,
    /// What is new, in the order of insertion.
    pub entries: Vec<InboxEntry>,
    /// How far it is read with these.
    pub mark: InboxMark,
}

/// What nothing is before: the mark of an inbox that was never read.
const NOTHING: &str = "1:1:";

/// A connection for putting executions into inboxes, which waits for foreign transactions a little.
pub struct Poster(Dedicated);

impl Poster {
    /// A poster that isn't connected yet.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self(Dedicated::new(database, Purpose::Posting))
    }
}

/// Puts executions into the inboxes of lanes, on a connection of its own.
#[async_trait]
pub trait PostWork: Send {
    /// Numbers for executions that come through the inbox; no owner gives them.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn numbers(&mut self, count: usize) -> Result<Vec<u64>, Error>;

    /// The executions that idempotency keys name; of those keys that are known.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn known_keys(&mut self, keys: &[[u8; 16]]) -> Result<Vec<KnownKey>, Error>;

    /// Stores executions for whoever owns their lanes, in one transaction.
    ///
    /// # Errors
    /// [`Error::KeyTaken`], [`Error::Blocked`], [`Error::Untimely`] for a plan that is more than a minute old,
    /// [`Error::NoWindow`]; or the database can't be reached. Whether
    /// anything was stored, [`Error::is_refusal`] tells.
    async fn post(
        &mut self,
        windows: &WindowMap,
        posted: &[Posted],
        at: Micros,
    ) -> Result<(), Error>;
}

#[async_trait]
impl PostWork for Poster {
    async fn numbers(&mut self, count: usize) -> Result<Vec<u64>, Error> {
        const SELECT: &str = "select nextval('ext_seq') from generate_series(1, $1)";
        let mut connection = self.0.take().await?;
        let statement = sqlx::query_scalar(SELECT)
            .bind(count as i64)
            .fetch_all(&mut connection);
        let database = &self.0.database;
        let numbers: Vec<i64> = database.timed("ext_seq", "select", statement).await?;
        self.0.put_back(connection);
        Ok(numbers
            .into_iter()
            .map(|n| u64::try_from(n).unwrap_or(0))
            .collect())
    }

    async fn known_keys(&mut self, keys: &[[u8; 16]]) -> Result<Vec<KnownKey>, Error> {
        let mut connection = self.0.take().await?;
        let known = self.0.database.known_keys(&mut connection, keys).await?;
        self.0.put_back(connection);
        Ok(known)
    }

    async fn post(
        &mut self,
        windows: &WindowMap,
        posted: &[Posted],
        at: Micros,
    ) -> Result<(), Error> {
        let (sql, arguments) = crate::commit::post_statement(windows, posted, at)?;
        let mut connection = self.0.take().await?;
        let statement = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut connection);
        let done = self
            .0
            .database
            .timed("inbox_post", "insert", statement)
            .await;
        if done.as_ref().err().is_none_or(Error::is_refusal) {
            self.0.put_back(connection);
        }
        done.map(drop)
    }
}

impl Database {
    /// Looks into the inboxes of lanes, each from its mark, for at most `limit` entries a lane.
    pub(crate) async fn read_inbox(
        &self,
        connection: &mut PgConnection,
        windows: &WindowMap,
        lanes: &[(LaneId, InboxMark)],
        (now, limit): (Micros, usize),
    ) -> Result<Vec<InboxRead>, Error> {
        let leaves: Vec<&str> = windows
            .leaves(Table::Inbox, Hour(i32::MIN), Hour(now.hour().0 + 1))
            .collect();
        if leaves.is_empty() || lanes.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<i16> = lanes.iter().map(|(lane, _)| number(*lane)).collect();
        let done = lanes.iter().map(|(_, mark)| match mark.done.as_str() {
            "" => NOTHING,
            done => done,
        });
        let page = lanes.iter().map(|(_, mark)| mark.page.as_ref());
        let upto: Vec<Option<&str>> = page.clone().map(|p| p.map(|(s, _)| s.as_str())).collect();
        let after: Vec<i64> = page.map(|p| p.map_or(0, |(_, last)| *last)).collect();
        let statement = sqlx::query(AssertSqlSafe(inbox_sql(&leaves)))
            .bind(numbers)
            .bind(done.collect::<Vec<_>>())
            .bind(upto)
            .bind(after)
            .bind(as_stored(limit as u64))
            .fetch_all(connection);
        let rows = self.timed("inbox_read", "select", statement).await?;
        gather(lanes, &rows, limit)
    }
}

/// What is read from nothing on may have been read before, in a database that was moved: what has rows of its
/// own was. One row a lane at least, so that its mark goes on; $1 lanes, $2 what each has read, $3 the snapshot of
/// a page that isn't through, $4 its last entry, $5 the most of a lane.
fn inbox_sql(leaves: &[&str]) -> String {
    let leaf = |leaf: &&str| {
        format!(
            "select i.ord, i.seq, i.tenant, i.queue, i.priority, i.job_type, i.home, i.due_at
             from {leaf} i where i.lane = m.lane and i.xid >= pg_snapshot_xmin(m.done)
                 and not pg_visible_in_snapshot(i.xid, m.done)
                 and pg_visible_in_snapshot(i.xid, m.upto) and i.ord > m.after
                 and not (m.anew and (
                     exists (select from outcome o
                         where o.lane = i.lane and o.seq = i.seq and o.win = i.home)
                     or exists (select from kept_outcome o
                         where o.lane = i.lane and o.seq = i.seq and o.win = i.home)
                     or exists (select from due d
                         where d.lane = i.lane and d.due_at = i.due_at and d.seq = i.seq)
                     or exists (select from kept_due d
                         where d.lane = i.lane and d.due_at = i.due_at and d.seq = i.seq)))"
        )
    };
    let leaves: Vec<String> = leaves.iter().map(leaf).collect();
    format!(
        "select m.lane, m.upto::text, e.* from (
             select lane, done::pg_snapshot as done, done = '{NOTHING}' as anew, after,
                 coalesce(upto::pg_snapshot, pg_current_snapshot()) as upto
             from unnest($1::int2[], $2::text[], $3::text[], $4::int8[]) u (lane, done, upto, after)
         ) m left join lateral (
             select * from ({}) i order by ord limit $5
         ) e on true order by m.lane, e.ord",
        leaves.join(" union all ")
    )
}

fn gather(
    lanes: &[(LaneId, InboxMark)],
    rows: &[PgRow],
    limit: usize,
) -> Result<Vec<InboxRead>, Error> {
    let read = Error::of("inbox_read");
    let mut reads = Vec::new();
    for (lane, before) in lanes {
        let (mut entries, mut upto, mut last) = (Vec::new(), String::new(), 0);
        for row in rows {
            let of: i16 = row.try_get(0).map_err(&read)?;
            if lane_id(of) != *lane {
                continue;
            }
            upto = row.try_get(1).map_err(&read)?;
            if let Some(ord) = row.try_get::<Option<i64>, _>(2).map_err(&read)? {
                last = ord;
                entries.push(entry(*lane, row)?);
            }
        }
        let more = entries.len() >= limit;
        let mark = InboxMark {
            done: if more {
                before.done.clone()
            } else {
                upto.clone()
            },
            page: more.then_some((upto, last)),
        };
        // With nothing new, what was done before is done still.
        if !entries.is_empty() || before.page.is_some() {
            let lane = *lane;
            reads.push(InboxRead {
                lane,
                entries,
                mark,
            });
        }
    }
    Ok(reads)
}

fn entry(lane: LaneId, row: &PgRow) -> Result<InboxEntry, Error> {
    let read = Error::of("inbox_read");
    let seq: i64 = row.try_get(3).map_err(&read)?;
    let priority: i16 = row.try_get(6).map_err(&read)?;
    let priority = Priority::from_number(i32::from(priority)).ok_or(Error::Inconsistent {
        table: "inbox",
        what: format!("{seq}: priority {priority}"),
    })?;
    let due: Option<Timestamp> = row.try_get(9).map_err(&read)?;
    Ok(InboxEntry {
        lane,
        seq: u64::try_from(seq).unwrap_or(0),
        class: Class {
            tenant: row.try_get(4).map_err(&read)?,
            queue: row.try_get(5).map_err(&read)?,
            priority,
            job_type: row.try_get(7).map_err(&read)?,
            suspect: false,
        },
        home: Hour(row.try_get(8).map_err(&read)?),
        due: due.map(|due| due.0),
    })
}

impl InboxEntry {
    /// The place among due entries of one that is due later.
    #[must_use]
    pub fn mark(&self) -> Option<DueMark> {
        self.due.map(|due| DueMark { due, seq: self.seq })
    }
}

impl Posted {
    /// One that is due at `due`, or at once, in a window that there is or apart.
    #[must_use]
    pub fn place(windows: &WindowMap, home: Hour) -> Place {
        match windows.leaf(Table::Execution, home) {
            Ok(_) => Place::Window,
            Err(_) => Place::Kept,
        }
    }
}
