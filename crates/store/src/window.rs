//! Windows: which leaf holds which hours of which table.

use std::collections::BTreeMap;

use domain::{Hour, HourRange, Micros};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::batch::Place;
use crate::{Database, Election, Error, Term};

/// How wide a window of idempotency keys is, and how long a key is kept at least.
const KEY_HOURS: i32 = 24;

/// The tables that are kept in windows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// By the row's number, which is a time in microseconds or less.
    Chain,
    /// By home hour.
    Execution,
    /// By its execution's home hour.
    Outcome,
    /// By the hour of the due time.
    Due,
    /// By the day of the submission.
    Idempotency,
    /// By the hour of the insertion.
    Inbox,
    /// By its execution's home hour.
    Checkpoint,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Chain,
        Self::Execution,
        Self::Outcome,
        Self::Due,
        Self::Idempotency,
        Self::Inbox,
        Self::Checkpoint,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Execution => "execution",
            Self::Outcome => "outcome",
            Self::Due => "due",
            Self::Idempotency => "idempotency",
            Self::Inbox => "inbox",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// Its kin for what has no window.
    pub(crate) fn kept(self) -> Option<&'static str> {
        match self {
            Self::Execution => Some("kept_execution"),
            Self::Outcome => Some("kept_outcome"),
            Self::Due => Some("kept_due"),
            Self::Checkpoint => Some("kept_checkpoint"),
            Self::Chain | Self::Idempotency | Self::Inbox => None,
        }
    }

    /// Whether its rows are a tenant's each.
    fn has_tenants(self) -> bool {
        self != Self::Chain
    }

    /// Whether tenants' reads go there.
    fn is_read_by_tenants(self) -> bool {
        self.kept().is_some()
    }

    /// How many hours a new window of it is wide, where others are `width` wide: keys are kept for a day
    /// whatever the others do.
    fn width(self, width: i32) -> i32 {
        match self {
            Self::Idempotency => KEY_HOURS,
            _ => width,
        }
    }

    /// The hour up to which it needs windows at `now`: this one and three more, and `reach` hours at least.
    fn needed(self, now: Micros, width: i32, reach: i32) -> i32 {
        let (width, hour) = (self.width(width), now.hour().0);
        let current = hour.div_euclid(width) * width;
        (current + 4 * width).max(hour + reach)
    }

    /// How many hours a window of it stays beyond its last.
    fn stays(self, retention: Retention) -> i32 {
        match self {
            Self::Execution | Self::Outcome | Self::Checkpoint => {
                retention.history.max(retention.slack)
            }
            Self::Idempotency => KEY_HOURS + retention.slack,
            Self::Chain | Self::Due | Self::Inbox => retention.slack,
        }
    }

    /// The column that it is partitioned by, and what an hour is in it.
    fn key(self) -> (&'static str, i64) {
        match self {
            Self::Chain => ("n", Hour(1).start().0),
            _ => ("win", 1),
        }
    }
}

/// Where a window stands. The numbers are stored: never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowState {
    /// In use.
    Open = 1,
    /// On its way out: transactions that began before may still write there.
    Closing = 2,
    /// None of those is left: what is still needed is carried over by the lanes' owners.
    Sealed = 3,
}

/// How long what is over is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Hours for which executions that succeeded or were cancelled are kept beyond their windows.
    pub history: i32,
    /// Hours for which every window is left alone once its time is over.
    pub slack: i32,
}

/// The windows, as a scheduler knows them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WindowMap {
    /// By table and first hour.
    leaves: BTreeMap<(Table, i32), Leaf>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Leaf {
    /// The hour after the last.
    to: i32,
    name: String,
    state: WindowState,
}

impl WindowMap {
    /// The leaf that holds an hour of a table.
    ///
    /// # Errors
    /// [`Error::NoWindow`].
    pub fn leaf(&self, table: Table, hour: Hour) -> Result<&str, Error> {
        match self.find(table, hour) {
            Some(leaf) => Ok(&leaf.name),
            None => Err(Error::NoWindow {
                table: table.name(),
                hour: hour.0,
            }),
        }
    }

    /// Whether the window of an hour is on its way out.
    #[must_use]
    pub fn is_closing(&self, table: Table, hour: Hour) -> bool {
        let leaf = self.find(table, hour);
        leaf.is_some_and(|leaf| leaf.state != WindowState::Open)
    }

    /// The windows whose time to go has come: of which table, and from which hour on.
    pub fn ripe(&self, now: Micros, retention: Retention) -> impl Iterator<Item = (Table, Hour)> {
        let hour = now.hour().0;
        let ripe = move |(key, leaf): &(&(Table, i32), &Leaf)| {
            leaf.state == WindowState::Open && leaf.to + key.0.stays(retention) <= hour
        };
        let ripe = self.leaves.iter().filter(ripe);
        ripe.map(|((table, from), _)| (*table, Hour(*from)))
    }

    /// Whether some window is on its way out.
    #[must_use]
    pub fn is_turning(&self) -> bool {
        let mut leaves = self.leaves.values();
        leaves.any(|leaf| leaf.state != WindowState::Open)
    }

    /// The windows that wait for the lanes' owners.
    pub fn sealed(&self) -> impl Iterator<Item = (Table, HourRange)> {
        let sealed = self.leaves.iter();
        let sealed = sealed.filter(|(_, leaf)| leaf.state == WindowState::Sealed);
        sealed.map(|((table, from), leaf)| {
            let (from, to) = (Hour(*from), Hour(leaf.to));
            (*table, HourRange { from, to })
        })
    }

    fn find(&self, table: Table, hour: Hour) -> Option<&Leaf> {
        let upto = (table, i32::MIN)..=(table, hour.0);
        let (_, leaf) = self.leaves.range(upto).next_back()?;
        (hour.0 < leaf.to).then_some(leaf)
    }

    /// Where a row of an hour goes.
    ///
    /// # Errors
    /// [`Error::NoWindow`].
    pub(crate) fn place(&self, place: Place, table: Table, hour: Hour) -> Result<&str, Error> {
        match (place, table.kept()) {
            (Place::Kept, Some(kept)) => Ok(kept),
            _ => self.leaf(table, hour),
        }
    }

    /// The leaf that holds row `n` of a chain.
    ///
    /// # Errors
    /// [`Error::NoWindow`].
    pub fn chain_leaf(&self, n: u64) -> Result<&str, Error> {
        self.leaf(
            Table::Chain,
            Micros(i64::try_from(n).unwrap_or(i64::MAX)).hour(),
        )
    }

    /// Whether every table has a window for the hour.
    #[must_use]
    pub fn covers(&self, hour: Hour) -> bool {
        Table::ALL
            .into_iter()
            .all(|table| self.leaf(table, hour).is_ok())
    }

    /// Whether windows are to be made, to have three ahead and `reach` hours at least.
    #[must_use]
    pub fn lacks(&self, now: Micros, width: i32, reach: i32) -> bool {
        let lacks = |table: &Table| self.end(*table) < Some(table.needed(now, width, reach));
        Table::ALL.iter().any(lacks)
    }

    /// The leaves of a table that hold hours of `from..=to`, the earliest first.
    pub fn leaves(&self, table: Table, from: Hour, to: Hour) -> impl Iterator<Item = &str> {
        let upto = self.leaves.range((table, i32::MIN)..=(table, to.0));
        upto.filter(move |(_, leaf)| leaf.to > from.0)
            .map(|(_, leaf)| leaf.name.as_str())
    }

    /// The leaves of a table, the latest first, each with the hour after its last.
    pub(crate) fn latest(&self, table: Table) -> impl Iterator<Item = (&str, Hour)> {
        let leaves = self.leaves.range((table, i32::MIN)..=(table, i32::MAX));
        leaves
            .rev()
            .map(|(_, leaf)| (leaf.name.as_str(), Hour(leaf.to)))
    }

    /// The first hour for which some table that waits for times has no window.
    #[must_use]
    pub fn reach(&self) -> Hour {
        let ends = [Table::Execution, Table::Outcome, Table::Due].map(|table| self.end(table));
        Hour(
            ends.into_iter()
                .map(Option::unwrap_or_default)
                .min()
                .unwrap_or_default(),
        )
    }

    fn end(&self, table: Table) -> Option<i32> {
        let last = self
            .leaves
            .range((table, i32::MIN)..=(table, i32::MAX))
            .next_back();
        last.map(|(_, leaf)| leaf.to)
    }
}

impl Database {
    pub(crate) async fn select_windows(&self) -> Result<WindowMap, Error> {
        let select = sqlx::query_as(SELECT_WINDOWS).fetch_all(&self.pool);
        Ok(WindowMap::from_rows(
            self.timed("windows", "select", select).await?,
        ))
    }
}

/// Those that are out of use are nobody's concern but of who removes them.
const SELECT_WINDOWS: &str =
    r#"select table_name, from_hour, to_hour, state from "window" where state <> 4"#;

type WindowRow = (String, i32, i32, i16);

impl FromIterator<(Table, HourRange, WindowState)> for WindowMap {
    /// Windows with the names that they are given when they are made.
    fn from_iter<T: IntoIterator<Item = (Table, HourRange, WindowState)>>(windows: T) -> Self {
        let leaves = windows
            .into_iter()
            .map(|(table, HourRange { from, to }, state)| {
                let (to, name) = (to.0, format!("{}_{from}", table.name()));
                ((table, from.0), Leaf { to, name, state })
            });
        Self {
            leaves: leaves.collect(),
        }
    }
}

impl WindowMap {
    fn from_rows(rows: Vec<WindowRow>) -> Self {
        let by_name = |name: &str| Table::ALL.into_iter().find(|table| table.name() == name);
        let windows = rows.into_iter().filter_map(|(table, from, to, state)| {
            let state = match state {
                1 => WindowState::Open,
                2 => WindowState::Closing,
                _ => WindowState::Sealed,
            };
            let (from, to) = (Hour(from), Hour(to));
            Some((by_name(&table)?, HourRange { from, to }, state))
        });
        windows.collect()
    }
}

impl Election {
    /// Makes the windows that are missing from the hour of `now` to three windows ahead, and at least
    /// `reach` hours ahead. Gives how many it made.
    ///
    /// # Errors
    /// The term is over, or the database refuses.
    pub(crate) async fn attach_windows(
        &mut self,
        term: &Term,
        width: i32,
        reach: i32,
    ) -> Result<usize, Error> {
        let mut connection = self.connection.take().await?;
        let mut fenced = term.begin(&mut connection).await?;
        let rows = sqlx::query_as(SELECT_WINDOWS)
            .fetch_all(&mut *fenced)
            .await
            .map_err(Error::of("windows"))?;
        let map = WindowMap::from_rows(rows);
        let mut made = 0;
        for table in Table::ALL {
            let until = table.needed(term.now(), width, reach);
            let width = table.width(width);
            let current = term.now().hour().0.div_euclid(width) * width;
            let mut from = map.end(table).unwrap_or(current);
            while from < until {
                make_leaf(&mut fenced, table, from, from + width).await?;
                from += width;
                made += 1;
            }
        }
        fenced.commit().await.map_err(Error::of("make_windows"))?;
        self.connection.put_back(connection);
        Ok(made)
    }
}

/// What keeps tenants' rows of a leaf apart. Neither LIKE nor ATTACH gives it what its parent has.
fn guard(table: Table, leaf: &str) -> String {
    let guard = match table.has_tenants() {
        true => format!("select guard_tenants('{leaf}');"),
        false => String::new(),
    };
    match table.is_read_by_tenants() {
        true => format!("{guard} grant select on {leaf} to watchwork_reader;"),
        false => guard,
    }
}

/// Makes one leaf. By LIKE and ATTACH, since CREATE TABLE … PARTITION OF would wait for every reader of
/// the parent, with everybody else behind it; the CHECK spares ATTACH the scan.
async fn make_leaf(
    connection: &mut PgConnection,
    table: Table,
    from: i32,
    to: i32,
) -> Result<(), Error> {
    let name = table.name();
    let leaf = format!("{name}_{from}");
    let (column, hour) = table.key();
    let (low, high) = (i64::from(from) * hour, i64::from(to) * hour);
    let guard = guard(table, &leaf);
    let statements = format!(
        "create table {leaf} (like {name} including all,
             constraint {leaf}_window check ({column} >= {low} and {column} < {high}))
             with (autovacuum_enabled = off);
         {guard}
         alter table {name} attach partition {leaf} for values from ({low}) to ({high});"
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *connection)
        .await
        .map_err(Error::of("make_leaf"))?;
    sqlx::query(
        r#"insert into "window" (table_name, from_hour, to_hour, leaf) values ($1, $2, $3, $4)"#,
    )
    .bind(name)
    .bind(from)
    .bind(to)
    .bind(&leaf)
    .execute(&mut *connection)
    .await
    .map_err(Error::of("insert_window"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_ripe_once_its_table_needs_it_no_more_and_only_while_it_is_open() {
        let (from, to) = (Hour(0), Hour(24));
        let range = HourRange { from, to };
        let retention = Retention {
            history: 48,
            slack: 1,
        };
        let ripe_at = |hour: i32, state| {
            let windows: WindowMap = Table::ALL
                .map(|table| (table, range, state))
                .into_iter()
                .collect();
            let ripe = windows.ripe(Hour(hour).start(), retention);
            ripe.map(|(table, _)| table).collect::<Vec<_>>()
        };
        let open = WindowState::Open;
        assert_eq!(ripe_at(24, open), []);
        assert_eq!(ripe_at(25, open), [Table::Chain, Table::Due, Table::Inbox]);
        assert!(
            ripe_at(48, open)
                .iter()
                .all(|table| *table != Table::Idempotency)
        );
        assert!(
            ripe_at(49, open).contains(&Table::Idempotency),
            "keys are kept for a day"
        );
        assert!(!ripe_at(71, open).contains(&Table::Outcome));
        assert_eq!(ripe_at(72, open), Table::ALL);
        assert_eq!(ripe_at(72, WindowState::Closing), []);
    }
}
