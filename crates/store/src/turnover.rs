//! How windows go, the leader's part: each step is a fact in the `window` table that everybody reads.

use domain::Hour;

use crate::window::Table;
use crate::{Election, Error, Retention, Term};

/// Kept executions that are cleared at a time.
const CLEARED: i64 = 10_000;

impl Election {
    pub(crate) async fn step_windows(
        &mut self,
        term: &Term,
        ripe: &[(Table, Hour)],
    ) -> Result<u64, Error> {
        const MARK: &str = r#"update "window" set state = 2, marked = pg_current_xact_id(),
                 changed = clock_timestamp()
             where state = 1 and (table_name, from_hour) in (
                 select * from unnest($1::text[], $2::int4[]))"#;
        // Whoever has written there has a number, and it is older than the mark's. A mark from beyond is of
        // another database, before this one was moved.
        const SEAL: &str = r#"update "window" set state = 3, changed = clock_timestamp()
             where state = 2 and (marked < pg_snapshot_xmin(pg_current_snapshot())
                 or marked >= pg_snapshot_xmax(pg_current_snapshot()))"#;
        // Keys belong to no lane.
        const PUT_OUT: &str = r#"update "window" w set state = 4, changed = clock_timestamp()
             where state = 3 and (table_name = 'idempotency' or (select lanes from installation) <= (
                 select count(*) from let_go l
                 where l.table_name = w.table_name and l.from_hour = w.from_hour))"#;
        let mut connection = self.connection.take().await?;
        let mut fenced = term.begin(&mut connection).await?;
        let (tables, hours): (Vec<&str>, Vec<i32>) = ripe
            .iter()
            .map(|(table, from)| (table.name(), from.0))
            .unzip();
        let mut changed = 0;
        for statement in [SEAL, PUT_OUT] {
            let done = sqlx::query(statement).execute(&mut *fenced).await;
            changed += done.map_err(Error::of("turn_windows"))?.rows_affected();
        }
        let marked = sqlx::query(MARK).bind(tables).bind(hours);
        let marked = marked.execute(&mut *fenced).await;
        changed += marked.map_err(Error::of("turn_windows"))?.rows_affected();
        fenced.commit().await.map_err(Error::of("turn_windows"))?;
        self.connection.put_back(connection);
        Ok(changed)
    }

    pub(crate) async fn delete_kept(
        &mut self,
        term: &Term,
        retention: Retention,
    ) -> Result<u64, Error> {
        const CLEAR: &str = "with over as (
                 select o.lane, o.seq from kept_outcome o left join queue q on q.number = o.queue
                 where o.state in (6, 7, 8, 9) and o.at < $1 - interval '1 hour' * case
                     when o.state in (7, 8) then greatest($2, coalesce(q.failures_hours, 0))
                     else $2 end
                     -- Somebody may have had it run again since.
                     and not exists (select from kept_outcome later where later.lane = o.lane
                         and later.seq = o.seq and later.fence > o.fence)
                 limit $3),
             o as (delete from kept_outcome k using over where k.lane = over.lane and k.seq = over.seq),
             c as (delete from kept_checkpoint k using over where k.lane = over.lane and k.seq = over.seq)
             delete from kept_execution k using over where k.lane = over.lane and k.seq = over.seq";
        let mut connection = self.connection.take().await?;
        let mut fenced = term.begin(&mut connection).await?;
        let cleared = sqlx::query(CLEAR)
            .bind(crate::timestamp::Timestamp(term.now()))
            .bind(retention.history)
            .bind(CLEARED)
            .execute(&mut *fenced)
            .await
            .map_err(Error::of("clear_kept"))?;
        fenced.commit().await.map_err(Error::of("clear_kept"))?;
        self.connection.put_back(connection);
        Ok(cleared.rows_affected())
    }
}
