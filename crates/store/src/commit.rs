//! One batch, one statement: the chain rows of all lanes it touches, and everything that belongs to
//! them, in a single round trip that commits by itself.

use std::sync::Arc;

use domain::lane::{Link, Row};
use domain::{Items, Micros, Progress};
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, Encode, Postgres, Type};
use uuid::Uuid;

use crate::batch::{Batch, Checkpoint, DueEntry, KeptEntry, NewKey, Outcome};
use crate::chain::{as_stored, jump_to};
use crate::inbox::Posted;
use crate::lane_lease::number;
use crate::timestamp::Timestamp;
use crate::window::Table;
use crate::{Error, NewExecution, WindowMap};

/// The SQL that commits a batch, and its arguments.
///
/// # Errors
/// [`Error::NoWindow`].
pub(crate) fn statement(
    windows: &WindowMap,
    batch: &Batch,
    at: Micros,
) -> Result<(String, PgArguments), Error> {
    let mut statement = Statement::new(at);
    statement.keys(&batch.keys);
    statement.chain(windows, &batch.rows)?;
    statement.executions(windows, &batch.executions)?;
    statement.outcomes(windows, &batch.outcomes)?;
    statement.checkpoints(windows, &batch.checkpoints)?;
    statement.due(windows, &batch.due)?;
    statement.kept(&batch.kept);
    Ok(statement.finish(batch.rows.len()))
}

/// The SQL that hands executions to lanes of anybody, and its arguments.
///
/// # Errors
/// [`Error::NoWindow`].
pub(crate) fn post_statement(
    windows: &WindowMap,
    posted: &[Posted],
    at: Micros,
) -> Result<(String, PgArguments), Error> {
    let executions: Vec<NewExecution> = posted.iter().map(|p| p.execution.clone()).collect();
    let keys: Vec<NewKey> = posted.iter().filter_map(|p| p.key.clone()).collect();
    let mut statement = Statement::new(at);
    statement.keys(&keys);
    statement.executions(windows, &executions)?;
    statement.inbox(windows.leaf(Table::Inbox, at.hour())?, at, &executions);
    Ok(statement.finish_posting())
}

/// The statement while it is put together: one common table expression for each leaf it writes to.
struct Statement {
    parts: Vec<String>,
    /// What must hold of the keys, evaluated first.
    keys: Option<String>,
    fences: Vec<String>,
    arguments: PgArguments,
    count: usize,
}

/// A row, and the last one of its chain that must be there before the statement.
type Following<'a> = (&'a Row, Link);

/// Rows of one lane follow each other within a batch where its chain goes on elsewhere; a statement doesn't
/// see what it inserts itself.
fn following<'a>(rows: &[Row], row: &'a Row) -> Following<'a> {
    let of_lane = |other: &&Row| other.lane == row.lane && other.link == row.previous;
    let before = rows.iter().find(of_lane);
    (row, before.map_or(row.previous, |before| before.previous))
}

/// The place of the one argument that all parts share: when the batch was planned.
const AT: &str = "$1";

impl Statement {
    fn new(at: Micros) -> Self {
        let empty = (Vec::new(), Vec::new(), PgArguments::default());
        let mut statement = Self {
            parts: empty.0,
            keys: None,
            fences: empty.1,
            arguments: empty.2,
            count: 0,
        };
        statement.bind(Timestamp(at));
        statement
    }

    /// Adds an argument; gives its place.
    fn bind<'q, T: Encode<'q, Postgres> + Type<Postgres>>(&mut self, value: T) -> usize {
        self.arguments
            .add(value)
            .expect("numbers, bytes and checked text always encode");
        self.count += 1;
        self.count
    }

    /// Adds a column of `unnest`; gives its place with its type.
    fn column<'q, T>(&mut self, sql_type: &str, values: Vec<T>) -> String
    where
        Vec<T>: Encode<'q, Postgres> + Type<Postgres>,
    {
        format!("${}::{sql_type}[]", self.bind(values))
    }

    fn finish(mut self, rows: usize) -> (String, PgArguments) {
        let meant = self.bind(rows as i64);
        let inserted = self.fences.join(" + ");
        let keys = self.keys.map_or_else(String::new, |fence| fence + ", ");
        let sql = format!(
            "with {} select {keys}chain_fence({inserted}, ${meant})",
            self.parts.join(", ")
        );
        (sql, self.arguments)
    }

    /// Without rows of lanes the plan's age is the fence: looked at once the entries of the inbox are in, so that the
    /// transaction has its number by then, and windows wait for it.
    fn finish_posting(self) -> (String, PgArguments) {
        let keys = self.keys.map_or_else(String::new, |fence| fence + ", ");
        let sql = format!(
            "with {} select {keys}post_fence({AT}, (select count(*) from i))",
            self.parts.join(", ")
        );
        (sql, self.arguments)
    }

    fn inbox(&mut self, leaf: &str, at: Micros, new: &[NewExecution]) {
        let home = self.bind(at.hour().0);
        let columns = [
            self.column("int2", each(new, |e| number(e.lane))),
            self.column("int8", each(new, |e| as_stored(e.seq))),
            self.column("int4", each(new, |e| e.head.tenant)),
            self.column("int4", each(new, |e| e.head.queue)),
            self.column("int2", each(new, |e| e.head.priority as i16)),
            self.column("int4", each(new, |e| e.head.job_type)),
            self.column("int4", each(new, |e| e.home.0)),
            self.column("timestamptz", each(new, |e| e.head.due.map(Timestamp))),
        ];
        let names = "lane, seq, tenant, queue, priority, job_type, home, due_at";
        self.parts.push(format!(
            "i as (insert into {leaf} (win, kind, {names})
             select ${home}::int4, 1, u.* from unnest({}) u ({names}) returning 1)",
            columns.join(", ")
        ));
    }

    /// Keys go into the window of the day, and within a minute of its border into both, so that whoever
    /// races about a key meets the other in one of them; one that the day before knows is taken. Sorted,
    /// so that two schedulers never wait for each other.
    fn keys(&mut self, keys: &[NewKey]) {
        if keys.is_empty() {
            return;
        }
        let mut keys: Vec<&NewKey> = keys.iter().collect();
        keys.sort_unstable_by_key(|key| key.key);
        let columns = [
            self.column("uuid", each(&keys, |k| Uuid::from_bytes(k.key))),
            self.column("int8", each(&keys, |k| k.fingerprint)),
            self.column("int4", each(&keys, |k| k.tenant)),
            self.column("uuid", each(&keys, |k| Uuid::from_bytes(*k.id.as_bytes()))),
        ];
        self.parts.push(
            "kw as (select distinct idempotency_window(now() + d) as win
                 from unnest(array['-1 minute', '1 minute']::interval[]) d)"
                .to_owned(),
        );
        self.parts.push(format!(
            "k as (insert into idempotency (win, key, fingerprint, tenant, id)
             select kw.win, u.key, u.fingerprint, u.tenant, u.id
             from unnest({}) with ordinality u (key, fingerprint, tenant, id, place) cross join kw
             where not exists (select from idempotency o where o.key = u.key
                 and o.win = idempotency_window(now() - interval '1 minute') - 24)
             order by u.place, kw.win
             on conflict do nothing returning 1)",
            columns.join(", ")
        ));
        let meant = self.bind(keys.len() as i64);
        self.keys = Some(format!(
            "key_fence((select count(*) from k), ${meant} * (select count(*) from kw))"
        ));
    }

    fn chain(&mut self, windows: &WindowMap, rows: &[Row]) -> Result<(), Error> {
        let rows: Vec<Following<'_>> = rows.iter().map(|row| following(rows, row)).collect();
        let place = |(row, before): &Following<'_>| {
            let (leaf, before) = (
                windows.chain_leaf(row.link.n)?,
                windows.chain_leaf(before.n)?,
            );
            // At a window's border the row before lies in another leaf: look it up through the parent.
            Ok((
                leaf,
                if leaf == before {
                    leaf
                } else {
                    Table::Chain.name()
                },
            ))
        };
        for ((leaf, before), rows) in grouped(&rows, place)? {
            self.chain_leaf(leaf, before, &rows);
        }
        Ok(())
    }

    fn chain_leaf(&mut self, leaf: &str, before: &str, rows: &[&Following<'_>]) {
        let columns = [
            self.column("int2", each(rows, |(r, _)| number(r.lane))),
            self.column("int8", each(rows, |(r, _)| as_stored(r.link.n))),
            self.column("uuid", each(rows, |(r, _)| Uuid::from_u128(r.link.batch))),
            self.column("int8", each(rows, |(r, _)| r.epoch)),
            self.column("int2", each(rows, |(r, _)| r.kind.number())),
            self.column("int8", each(rows, |(r, _)| jump_to(r.kind))),
            self.column("int8", each(rows, |(r, _)| as_stored(r.next_seq))),
            self.column("int8", each(rows, |(r, _)| as_stored(r.totals.submitted))),
            self.column("int8", each(rows, |(r, _)| as_stored(r.totals.claimed))),
            self.column("int8", each(rows, |(r, _)| as_stored(r.totals.finished))),
            self.column("bytea", each(rows, |(r, _)| r.delta.encode())),
            self.column("int8", each(rows, |(_, before)| as_stored(before.n))),
            self.column("uuid", each(rows, |(_, b)| Uuid::from_u128(b.batch))),
        ];
        let name = format!("c{}", self.parts.len());
        self.parts.push(format!(
            "{name} as (insert into {leaf} (lane, n, batch, epoch, kind, jump_to, at, next_seq,
                 submitted, claimed, finished, delta)
             select u.lane, u.n, u.batch, u.epoch, u.kind, u.jump_to, {AT}, u.next_seq, u.submitted,
                 u.claimed, u.finished, u.delta
             from unnest({}) u (lane, n, batch, epoch, kind, jump_to, next_seq, submitted, claimed,
                 finished, delta, before_n, before_batch)
             where exists (select from {before} p where p.lane = u.lane and p.n = u.before_n
                 and p.batch = u.before_batch)
             returning 1)",
            columns.join(", ")
        ));
        self.fences.push(format!("(select count(*) from {name})"));
    }

    fn executions(&mut self, windows: &WindowMap, all: &[NewExecution]) -> Result<(), Error> {
        let leaf = |e: &NewExecution| windows.place(e.place, Table::Execution, e.home);
        for (leaf, new) in grouped(all, leaf)? {
            let columns = execution_columns(self, &new);
            let part = format!("e{}", self.parts.len());
            self.parts.push(format!(
                "{part} as (insert into {leaf} (win, lane, seq, tenant, queue, job_type, priority, at,
                     timeout_us, retry_policy, trace, parent_span, request_at, tracestate,
                     correlation_id, labels, headers, payload, content_type, due_at)
                 select u.win, u.lane, u.seq, u.tenant, u.queue, u.job_type, u.priority, {AT},
                     u.timeout_us, u.retry_policy, u.trace, u.parent_span, u.request_at, u.tracestate,
                     u.correlation_id, u.labels::jsonb, u.headers::jsonb, u.payload, u.content_type,
                     u.due_at
                 from unnest({}) u (win, lane, seq, tenant, queue, job_type, priority, timeout_us,
                     retry_policy, trace, parent_span, request_at, tracestate, correlation_id, labels,
                     headers, payload, content_type, due_at))",
                columns.join(", ")
            ));
        }
        Ok(())
    }

    fn outcomes(&mut self, windows: &WindowMap, all: &[Outcome]) -> Result<(), Error> {
        let leaf = |o: &Outcome| windows.place(o.place, Table::Outcome, o.home);
        for (leaf, outcomes) in grouped(all, leaf)? {
            let mut columns = outcome_columns(self, &outcomes).to_vec();
            let mut names = "win, lane, seq, fence, tenant, queue, attempt, result, state, reason,
                attempts_used, lost_used, worker, claimed_at, queued_us, dispatch_us, run_us, report_us,
                next_at, error_class, error_message, output, output_type, trace_kept"
                .to_owned();
            // Few say anything of these: who doesn't pays nothing for them.
            if outcomes.iter().any(|o| !o.items.is_none()) {
                columns.extend(items_columns(self, &outcomes));
                names.push_str(", items_success, items_failed, items_skipped");
            }
            if outcomes.iter().any(|o| o.progress.is_some()) {
                columns.extend(progress_columns(self, &outcomes, |o| o.progress.as_ref()));
                names.push_str(PROGRESS_NAMES);
            }
            let part = format!("o{}", self.parts.len());
            self.parts.push(format!(
                "{part} as (insert into {leaf} ({names}, at)
                 select u.*, {AT} from unnest({}) u ({names}))",
                columns.join(", ")
            ));
        }
        Ok(())
    }

    fn checkpoints(&mut self, windows: &WindowMap, all: &[Checkpoint]) -> Result<(), Error> {
        let leaf = |c: &Checkpoint| windows.place(c.place, Table::Checkpoint, c.home);
        for (leaf, saved) in grouped(all, leaf)? {
            let mut columns = vec![
                self.column("int4", each(&saved, |c| c.home.0)),
                self.column("int2", each(&saved, |c| number(c.lane))),
                self.column("int8", each(&saved, |c| as_stored(c.seq))),
                self.column("int8", each(&saved, |c| as_stored(c.mark.fence))),
                self.column("int8", each(&saved, |c| as_stored(c.mark.number))),
                self.column("int4", each(&saved, |c| c.tenant)),
                self.column("bytea", saved.iter().map(|c| &c.state[..]).collect()),
            ];
            columns.extend(progress_columns(self, &saved, |c| c.progress.as_ref()));
            let names = format!("win, lane, seq, fence, number, tenant, state{PROGRESS_NAMES}");
            let part = format!("s{}", self.parts.len());
            self.parts.push(format!(
                "{part} as (insert into {leaf} ({names}, at)
                 select u.*, {AT} from unnest({}) u ({names}))",
                columns.join(", ")
            ));
        }
        Ok(())
    }

    fn due(&mut self, windows: &WindowMap, all: &[DueEntry]) -> Result<(), Error> {
        let leaf = |due: &DueEntry| {
            let hour = due.entry.mark.due.hour();
            windows.place(due.place, Table::Due, hour)
        };
        for (leaf, entries) in grouped(all, leaf)? {
            let columns = due_columns(self, &entries);
            let names =
                "win, lane, due_at, seq, home, tenant, queue, priority, job_type, attempts, lost,
                 wait";
            let part = format!("d{}", self.parts.len());
            self.parts.push(format!(
                "{part} as (insert into {leaf} ({names}) select u.* from unnest({}) u ({names}))",
                columns.join(", ")
            ));
        }
        Ok(())
    }

    /// Moves what was kept apart into the windows of its hours: few, so through the parents.
    fn kept(&mut self, entries: &[KeptEntry]) {
        if entries.is_empty() {
            return;
        }
        let columns = [
            self.column("int2", each(entries, |e| number(e.lane))),
            self.column("timestamptz", each(entries, |e| Timestamp(e.mark.due))),
            self.column("int8", each(entries, |e| as_stored(e.mark.seq))),
        ];
        self.parts.push(format!(
            "kd as (delete from kept_due k using unnest({}) u (lane, due_at, seq)
                 where k.lane = u.lane and k.due_at = u.due_at and k.seq = u.seq returning k.*),
             kdi as (insert into due select * from kd),
             ke as (delete from kept_execution k using kd
                 where k.lane = kd.lane and k.seq = kd.seq and k.win = kd.home returning k.*),
             kei as (insert into execution select * from ke)",
            columns.join(", ")
        ));
    }
}

fn execution_columns(to: &mut Statement, new: &[&NewExecution]) -> [String; 19] {
    let head = |e: &&NewExecution| Arc::clone(&e.head);
    let heads: Vec<_> = new.iter().map(head).collect();
    let heads: &[Arc<crate::Head>] = &heads;
    [
        to.column("int4", each(new, |e| e.home.0)),
        to.column("int2", each(new, |e| number(e.lane))),
        to.column("int8", each(new, |e| as_stored(e.seq))),
        to.column("int4", each(heads, |h| h.tenant)),
        to.column("int4", each(heads, |h| h.queue)),
        to.column("int4", each(heads, |h| h.job_type)),
        to.column("int2", each(heads, |h| h.priority as i16)),
        to.column("int8", each(heads, |h| crate::leader::micros(h.timeout))),
        to.column("int4", each(heads, |h| h.retry_policy)),
        to.column(
            "bytea",
            heads
                .iter()
                .map(|h| h.trace.as_ref().map(|t| &t[..]))
                .collect(),
        ),
        to.column(
            "bytea",
            heads
                .iter()
                .map(|h| h.parent_span.as_ref().map(|s| &s[..]))
                .collect(),
        ),
        to.column("timestamptz", each(heads, |h| h.request_at.map(Timestamp))),
        to.column(
            "text",
            heads.iter().map(|h| h.tracestate.as_deref()).collect(),
        ),
        to.column(
            "text",
            heads.iter().map(|h| h.correlation_id.as_deref()).collect(),
        ),
        to.column(
            "text",
            each(heads, |h| crate::execution::to_json(&h.labels)),
        ),
        to.column(
            "text",
            each(heads, |h| crate::execution::to_json(&h.headers)),
        ),
        to.column("bytea", heads.iter().map(|h| &h.payload[..]).collect()),
        to.column(
            "text",
            heads.iter().map(|h| h.content_type.as_deref()).collect(),
        ),
        to.column("timestamptz", each(heads, |h| h.due.map(Timestamp))),
    ]
}

fn outcome_columns(to: &mut Statement, outcomes: &[&Outcome]) -> [String; 24] {
    let all = outcomes;
    [
        to.column("int4", each(all, |o| o.home.0)),
        to.column("int2", each(all, |o| number(o.lane))),
        to.column("int8", each(all, |o| as_stored(o.seq))),
        to.column("int8", each(all, |o| as_stored(o.fence))),
        to.column("int4", each(all, |o| o.tenant)),
        to.column("int4", each(all, |o| o.queue)),
        to.column("int2", each(all, |o| small(o.attempt))),
        to.column(
            "int2",
            each(all, |o| o.result.map_or(0, |result| result as i16)),
        ),
        to.column("int2", each(all, |o| o.state as i16)),
        to.column("int2", each(all, |o| o.reason as i16)),
        to.column("int2", each(all, |o| small(o.budgets.attempts))),
        to.column("int2", each(all, |o| small(o.budgets.lost))),
        to.column("text", all.iter().map(|o| &*o.worker).collect()),
        to.column("timestamptz", each(all, |o| Timestamp(o.claimed))),
        to.column("int8", each(all, |o| o.queued_us)),
        to.column("int8", each(all, |o| o.dispatch_us)),
        to.column("int8", each(all, |o| o.run_us)),
        to.column("int8", each(all, |o| o.report_us)),
        to.column("timestamptz", each(all, |o| o.next_at.map(Timestamp))),
        to.column(
            "text",
            all.iter().map(|o| o.error_class.as_deref()).collect(),
        ),
        to.column(
            "text",
            all.iter().map(|o| o.error_message.as_deref()).collect(),
        ),
        to.column("bytea", all.iter().map(|o| o.output.as_deref()).collect()),
        to.column(
            "text",
            all.iter().map(|o| o.output_type.as_deref()).collect(),
        ),
        to.column("bool", each(all, |o| o.trace_kept)),
    ]
}

const PROGRESS_NAMES: &str = ", progress_done, progress_total, progress_note";

fn progress_columns<T>(
    to: &mut Statement,
    items: &[&T],
    progress: impl Fn(&T) -> Option<&Progress>,
) -> [String; 3] {
    let all: Vec<Option<&Progress>> = items.iter().map(|item| progress(item)).collect();
    [
        to.column("int8", each(&all, |p| p.map(|p| as_stored(p.done)))),
        to.column("int8", each(&all, |p| p.map(|p| as_stored(p.total)))),
        to.column("text", each(&all, |p| p.map(|p| p.note.to_string()))),
    ]
}

/// Nothing counted is nothing stored.
fn items_columns(to: &mut Statement, outcomes: &[&Outcome]) -> [String; 3] {
    let counts = |of: fn(&Items) -> u64| {
        let count = move |o: &&Outcome| (!o.items.is_none()).then(|| as_stored(of(&o.items)));
        each(outcomes, count)
    };
    [
        to.column("int8", counts(|items| items.success)),
        to.column("int8", counts(|items| items.failed)),
        to.column("int8", counts(|items| items.skipped)),
    ]
}

fn due_columns(to: &mut Statement, entries: &[&DueEntry]) -> [String; 12] {
    [
        to.column("int4", each(entries, |d| d.entry.mark.due.hour().0)),
        to.column("int2", each(entries, |d| number(d.lane))),
        to.column(
            "timestamptz",
            each(entries, |d| Timestamp(d.entry.mark.due)),
        ),
        to.column("int8", each(entries, |d| as_stored(d.entry.mark.seq))),
        to.column("int4", each(entries, |d| d.entry.home.0)),
        to.column("int4", each(entries, |d| d.entry.class.tenant)),
        to.column("int4", each(entries, |d| d.entry.class.queue)),
        to.column("int2", each(entries, |d| d.entry.class.priority as i16)),
        to.column("int4", each(entries, |d| d.entry.class.job_type)),
        to.column("int2", each(entries, |d| small(d.entry.budgets.attempts))),
        to.column("int2", each(entries, |d| small(d.entry.budgets.lost))),
        to.column("int2", each(entries, |d| d.entry.wait as i16)),
    ]
}

fn each<T, U>(items: &[T], value: impl Fn(&T) -> U) -> Vec<U> {
    items.iter().map(value).collect()
}

/// At most 1000 attempts and a few losses: it always fits.
fn small(number: u16) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

/// The items by where they go, in order; mostly all to one place.
fn grouped<T, K: PartialEq>(
    items: &[T],
    place: impl Fn(&T) -> Result<K, Error>,
) -> Result<Vec<(K, Vec<&T>)>, Error> {
    let mut groups: Vec<(K, Vec<&T>)> = Vec::new();
    for item in items {
        let key = place(item)?;
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    Ok(groups)
}
