//! Lists, from the rows. A list goes from the greatest mark down, over all windows of a table; what comes
//! out is where executions are, and then what their rows say, by primary key.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::{Foremost, Hour, LaneId, ListMark, Stretch};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row as _};

use crate::chain::as_stored;
use crate::lane_lease::{lane_id, number};
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Database, Error, ExecutionPlace, LastOutcome, ListedHead, WindowMap};

/// Leaves that one statement reads: few pages go further back than the latest of them.
const LEAVES: usize = 8;
/// How many hours a row's time may lie beyond those of its leaf: what was due in a moment when it came may be
/// accepted a moment after, in the next hour.
const BEYOND: i32 = 1;

/// What part of a list is wanted.
#[derive(Clone, Debug)]
pub struct ListPart {
    /// The tenant's number.
    pub tenant: i32,
    /// Its queues' numbers.
    pub queues: Vec<i32>,
    /// What comes after this place.
    pub before: ListMark,
    /// What comes before this place.
    pub after: ListMark,
    /// At most so many.
    pub limit: usize,
}

/// A way through the rows of a table by one of its indexes.
struct Walk {
    name: &'static str,
    table: Table,
    /// The time that it goes by.
    time: &'static str,
    /// The column of the home hour.
    home: &'static str,
    /// What the index begins with, each of which is walked by itself.
    keys: &'static str,
    /// A row of a key. It implies what the index is limited to.
    of_key: &'static str,
    /// Whether no row's time lies far beyond the hours of its leaf.
    bounded: bool,
}

const ACCEPTED: Walk = Walk {
    name: "list_accepted",
    table: Table::Execution,
    time: "at",
    home: "win",
    keys: "unnest($9::int4[]) k (queue)",
    of_key: "r.queue = k.queue",
    bounded: true,
};

const ENDED: Walk = Walk {
    name: "list_ended",
    table: Table::Outcome,
    time: "at",
    home: "win",
    keys: "unnest($9::int4[]) q (queue) cross join unnest($10::int2[]) s (state)",
    of_key: "r.queue = q.queue and r.state = s.state and r.state <> 6",
    bounded: false,
};

const DUE: Walk = Walk {
    name: "list_due",
    table: Table::Due,
    time: "due_at",
    home: "home",
    keys: "unnest($9::int4[]) k (queue)",
    of_key: "r.queue = k.queue",
    bounded: true,
};

/// Lists, and what they show.
#[async_trait]
pub trait ReadLists: Send + Sync {
    /// Executions by when they were accepted, with the hours of their homes.
    ///
    /// # Errors
    /// The database can't be read.
    async fn list_accepted(
        &self,
        windows: &WindowMap,
        part: &ListPart,
    ) -> Result<Stretch<Hour>, Error>;

    /// Outcomes that left their executions in one of `states`, by when they were recorded, with the hours of
    /// the executions' homes. Successes are in no index, and not to be had from here.
    ///
    /// # Errors
    /// The database can't be read.
    async fn list_ended(
        &self,
        windows: &WindowMap,
        part: &ListPart,
        states: &[i16],
    ) -> Result<Stretch<Hour>, Error>;

    /// Due entries by when they are due, with the hours of their executions' homes. Some are over.
    ///
    /// # Errors
    /// The database can't be read.
    async fn list_due(&self, windows: &WindowMap, part: &ListPart) -> Result<Stretch<Hour>, Error>;

    /// What was submitted; of those executions that are there and the tenant's.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn listed_heads(
        &self,
        windows: &WindowMap,
        tenant: i32,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), ListedHead>, Error>;

    /// The last outcomes; of those executions that have one and are the tenant's.
    ///
    /// # Errors
    /// The database can't be read, or a row makes no sense.
    async fn last_outcomes(
        &self,
        windows: &WindowMap,
        tenant: i32,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastOutcome>, Error>;
}

#[async_trait]
impl ReadLists for Database {
    async fn list_accepted(
        &self,
        windows: &WindowMap,
        part: &ListPart,
    ) -> Result<Stretch<Hour>, Error> {
        self.walk(windows, &ACCEPTED, part, &[]).await
    }

    async fn list_ended(
        &self,
        windows: &WindowMap,
        part: &ListPart,
        states: &[i16],
    ) -> Result<Stretch<Hour>, Error> {
        self.walk(windows, &ENDED, part, states).await
    }

    async fn list_due(&self, windows: &WindowMap, part: &ListPart) -> Result<Stretch<Hour>, Error> {
        self.walk(windows, &DUE, part, &[]).await
    }

    async fn listed_heads(
        &self,
        windows: &WindowMap,
        tenant: i32,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), ListedHead>, Error> {
        self.select_heads(windows, tenant, places).await
    }

    async fn last_outcomes(
        &self,
        windows: &WindowMap,
        tenant: i32,
        places: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastOutcome>, Error> {
        self.select_last_outcomes(windows, tenant, places).await
    }
}

impl Database {
    /// What is kept apart comes first: it may move into a leaf while the leaves are read, never back.
    async fn walk(
        &self,
        windows: &WindowMap,
        walk: &Walk,
        part: &ListPart,
        states: &[i16],
    ) -> Result<Stretch<Hour>, Error> {
        let mut reader = self.read_for(part.tenant).await?;
        let mut found = Foremost::new(part.before, part.limit.max(1));
        let kept = walk.table.kept().map(|kept| (kept, None));
        let leaves = windows
            .latest(walk.table)
            .map(|(leaf, to)| (leaf, Some(to).filter(|_| walk.bounded)));
        let tables: Vec<(&str, Option<Hour>)> = kept.into_iter().chain(leaves).collect();
        for tables in tables.chunks(LEAVES) {
            let floor = found
                .floor()
                .map_or(part.after, |floor| floor.max(part.after));
            let reaches =
                |to: &Option<Hour>| to.is_none_or(|to| Hour(to.0 + BEYOND).start() > floor.at);
            if !tables.iter().any(|(_, to)| reaches(to)) {
                break;
            }
            let sql = walk.sql(tables.iter().map(|(table, _)| *table));
            let statement = sqlx::query(AssertSqlSafe(sql))
                .bind(part.tenant)
                .bind(Timestamp(part.before.at))
                .bind(number(part.before.lane))
                .bind(as_stored(part.before.seq))
                .bind(Timestamp(floor.at))
                .bind(number(floor.lane))
                .bind(as_stored(floor.seq))
                .bind(as_stored(part.limit.max(1) as u64))
                .bind(&part.queues);
            let statement = match walk.table {
                Table::Outcome => statement.bind(states),
                _ => statement,
            };
            let rows = statement.fetch_all(&mut *reader);
            for row in self.timed(walk.name, "select", rows).await? {
                let (mark, home) = read_place(&row)?;
                found.add(mark, home);
            }
        }
        Ok(found.into_stretch())
    }
}

impl Walk {
    /// Each key of each leaf gives the first of what it has, by its index; the first of all those go out.
    /// What is carried over from a window that is still there comes twice.
    fn sql<'a>(&self, leaves: impl Iterator<Item = &'a str>) -> String {
        let Self {
            time,
            home,
            keys,
            of_key,
            ..
        } = self;
        let leaf = |leaf: &str| {
            format!(
                "select r.* from {keys} cross join lateral (
                     select r.{time} as time, r.lane, r.seq, r.{home} as home from {leaf} r
                     where {of_key} and r.tenant = $1
                         and (r.{time}, r.lane, r.seq) < ($2, $3, $4)
                         and (r.{time}, r.lane, r.seq) > ($5, $6, $7)
                     order by r.{time} desc, r.lane desc, r.seq desc limit $8
                 ) r"
            )
        };
        let leaves: Vec<String> = leaves.map(leaf).collect();
        format!(
            "select r.time, r.lane, r.seq, r.home from ({}) r
             order by r.time desc, r.lane desc, r.seq desc limit 2 * $8",
            leaves.join(" union all ")
        )
    }
}

fn read_place(row: &PgRow) -> Result<(ListMark, Hour), Error> {
    let read = Error::of("list_place");
    let mark = ListMark {
        at: row.try_get::<Timestamp, _>(0).map_err(&read)?.0,
        lane: lane_id(row.try_get(1).map_err(&read)?),
        seq: u64::try_from(row.try_get::<i64, _>(2).map_err(&read)?).unwrap_or(0),
    };
    Ok((mark, Hour(row.try_get(3).map_err(&read)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::Plans;

    const TYPES: &str = "int4, timestamptz, int2, int8, timestamptz, int2, int8, int8, int4[]";
    const ARGUMENTS: &str = "1, 'infinity', 1::int2, 1, '-infinity', 1::int2, 1, 50, '{1,2,3}'";

    /// 100 000 executions of one window, each with an outcome and a due entry.
    const FILL: &str = "
        set statement_timeout = 0;
        insert into execution (win, lane, seq, tenant, queue, job_type, priority, at, timeout_us,
            retry_policy, payload)
        select {win}, n % 64, n, 1, n % 5, 1, 3, now() + n * interval '1 ms', 1, 1, ''
        from generate_series(1, 100000) n;
        insert into outcome (win, lane, seq, fence, tenant, queue, attempt, result, state, reason,
            attempts_used, lost_used, worker, claimed_at, queued_us, dispatch_us, run_us, report_us,
            at, trace_kept)
        select win, lane, seq, 1, tenant, queue, 1, 1, 6 + seq % 4, 0, 1, 0, 'w', at, 0, 0, 0, 0, at,
            false
        from execution;
        insert into due (win, lane, due_at, seq, home, tenant, queue, priority, job_type, attempts,
            lost, wait)
        select {win}, lane, at, seq, win, tenant, queue, 3, 1, 0, 0, 1 from execution;
        analyze execution; analyze outcome; analyze due;";

    async fn assert_each_leaf_is_walked_by_its_index(plans: &Plans) {
        for walk in [ACCEPTED, ENDED, DUE] {
            let leaves = plans.windows.latest(walk.table).map(|(leaf, _)| leaf);
            let tables: Vec<&str> = walk.table.kept().into_iter().chain(leaves).collect();
            let sql = walk.sql(tables.iter().copied());
            let plan = match walk.table {
                Table::Outcome => {
                    let types = format!("{TYPES}, int2[]");
                    let arguments = format!("{ARGUMENTS}, '{{7,8}}'");
                    plans.of_reader(&types, &sql, &arguments).await
                }
                _ => plans.of_reader(TYPES, &sql, ARGUMENTS).await,
            };
            let count = |what: &str| plan.matches(what).count();
            assert_eq!(count("Index Scan Backward using"), tables.len(), "{plan}");
            assert_eq!(
                count("Scan"),
                count("Index Scan") + count("Function Scan"),
                "{plan}"
            );
            assert_eq!(count("Index Cond: ((queue = "), tables.len(), "{plan}");
            assert_eq!(count("< ROW($2, $3, $4)) AND"), tables.len(), "{plan}");
            assert_eq!(
                count("Sort  ("),
                1,
                "what the leaves give, and nothing else: {plan}"
            );
            assert_eq!(count("Limit  ("), tables.len() + 1, "{plan}");
            assert!(!plan.contains("JIT"), "{plan}");
        }
    }

    #[tokio::test]
    async fn each_leaf_is_walked_by_its_index_whatever_the_statistics_say() {
        let plans = Plans::new().await;
        assert_each_leaf_is_walked_by_its_index(&plans).await;
        let win = plans.term.now().hour().0.to_string();
        plans.execute(&FILL.replace("{win}", &win)).await;
        assert_each_leaf_is_walked_by_its_index(&plans).await;
    }
}
