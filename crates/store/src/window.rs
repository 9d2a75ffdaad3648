//! Windows: which leaf holds which hours of which table.

use std::collections::BTreeMap;

use domain::{Hour, Micros};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{Database, Election, Error, Term};

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
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Chain, Self::Execution, Self::Outcome, Self::Due];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Execution => "execution",
            Self::Outcome => "outcome",
            Self::Due => "due",
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

/// The open windows, as a scheduler knows them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WindowMap {
    /// By table and first hour: the hour after the last, and the leaf.
    leaves: BTreeMap<(Table, i32), (i32, String)>,
}

impl WindowMap {
    /// The leaf that holds an hour of a table.
    ///
    /// # Errors
    /// [`Error::NoWindow`].
    pub fn leaf(&self, table: Table, hour: Hour) -> Result<&str, Error> {
        let found = self
            .leaves
            .range((table, i32::MIN)..=(table, hour.0))
            .next_back();
        match found {
            Some((_, (to, leaf))) if hour.0 < *to => Ok(leaf),
            _ => Err(Error::NoWindow {
                table: table.name(),
                hour: hour.0,
            }),
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

    /// The leaves of a table that hold hours of `from..=to`, the earliest first.
    pub fn leaves(&self, table: Table, from: Hour, to: Hour) -> impl Iterator<Item = &str> {
        let upto = self.leaves.range((table, i32::MIN)..=(table, to.0));
        upto.filter(move |(_, (end, _))| *end > from.0)
            .map(|(_, (_, leaf))| leaf.as_str())
    }

    fn end(&self, table: Table) -> Option<i32> {
        let last = self
            .leaves
            .range((table, i32::MIN)..=(table, i32::MAX))
            .next_back();
        last.map(|(_, (to, _))| *to)
    }
}

impl Database {
    /// The windows that there are.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn windows(&self) -> Result<WindowMap, Error> {
        let select = sqlx::query_as(SELECT_WINDOWS).fetch_all(&self.pool);
        Ok(WindowMap::from_rows(
            self.timed("windows", "select", select).await?,
        ))
    }
}

const SELECT_WINDOWS: &str = r#"select table_name, from_hour, to_hour, leaf from "window""#;

type WindowRow = (String, i32, i32, String);

impl WindowMap {
    fn from_rows(rows: Vec<WindowRow>) -> Self {
        let by_name = |name: &str| Table::ALL.into_iter().find(|table| table.name() == name);
        let leaves = rows
            .into_iter()
            .filter_map(|(name, from, to, leaf)| Some(((by_name(&name)?, from), (to, leaf))));
        Self {
            leaves: leaves.collect(),
        }
    }
}

impl Election {
    /// Makes the windows that are missing from the hour of `now` to three windows ahead, and at least
    /// `reach` hours ahead. Gives how many it made.
    ///
    /// # Errors
    /// The term is over, or the database refuses.
    pub async fn make_windows(
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
            let current = term.now().hour().0.div_euclid(width) * width;
            let until = (current + 4 * width).max(term.now().hour().0 + reach);
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
    let statements = format!(
        "create table {leaf} (like {name} including all,
             constraint {leaf}_window check ({column} >= {low} and {column} < {high}))
             with (autovacuum_enabled = off);
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
