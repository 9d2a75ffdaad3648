//! The leader: a lease row with an epoch and the holder's incarnation, by the database's clock alone.

use std::time::Duration;

use async_trait::async_trait;
use domain::{Hour, Micros};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Postgres, Transaction};
use uuid::Uuid;

use crate::database::{Dedicated, Purpose};
use crate::timestamp::Timestamp;
use crate::{Database, Error, Retention, Table};

/// A process that may lead: its random incarnation is what is compared, its label is for people.
#[derive(Clone, Debug)]
pub struct TermHolder {
    /// Random for each process.
    pub incarnation: Uuid,
    /// The scheduler's id.
    pub label: String,
    /// How long the lease lasts without renewal.
    pub lease: Duration,
}

/// One reign.
#[derive(Clone, Debug)]
pub struct Term {
    epoch: i64,
    incarnation: Uuid,
    at: Micros,
}

impl Term {
    /// The reign `epoch` of a process, won or renewed at `at` by the database's clock.
    #[must_use]
    pub fn new(epoch: i64, incarnation: Uuid, at: Micros) -> Self {
        Self {
            epoch,
            incarnation,
            at,
        }
    }

    /// Its number; it only grows.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The database's time when the term was won or last renewed.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.at
    }

    /// Begins a transaction of the leader: its first statement locks the lease row, so that a successor
    /// waits for it, and finds nothing if the term is over. To be run to its end, never cancelled.
    ///
    /// # Errors
    /// [`Error::TermOver`], or the database can't be reached.
    pub(crate) async fn begin<'a>(
        &self,
        connection: &'a mut PgConnection,
    ) -> Result<Transaction<'a, Postgres>, Error> {
        const FENCE: &str = "select 1 from leader_lease where name = 'leader' and epoch = $1
             and incarnation = $2 and expires_at > clock_timestamp() for key share";
        let mut transaction = connection
            .begin()
            .await
            .map_err(Error::of("leader_begin"))?;
        let valid = sqlx::query(FENCE)
            .bind(self.epoch)
            .bind(self.incarnation)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(Error::of("leader_fence"))?;
        match valid {
            Some(_) => Ok(transaction),
            None => Err(Error::TermOver { epoch: self.epoch }),
        }
    }
}

/// A scheduler's own connection for leading.
pub struct Election {
    pub(crate) connection: Dedicated,
    holder: TermHolder,
}

impl Election {
    /// An election that isn't connected yet.
    #[must_use]
    pub fn new(database: Database, holder: TermHolder) -> Self {
        Self {
            connection: Dedicated::new(database, Purpose::Leases),
            holder,
        }
    }

    /// Tries to win the lead: only when the lease has run out. Locks first and reads the clock
    /// afterwards, so that waiting for the lock costs the lease nothing.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn try_to_win(&mut self) -> Result<Option<Term>, Error> {
        const LOCK: &str = "select epoch from leader_lease
             where name = 'leader' and expires_at < clock_timestamp() for update skip locked";
        const TAKE: &str = "update leader_lease set epoch = epoch + 1, incarnation = $1,
             holder_label = $2, acquired_at = clock_timestamp(),
             expires_at = clock_timestamp() + $3 * interval '1 microsecond'
             where name = 'leader' returning epoch, clock_timestamp()";
        let holder = &self.holder;
        let mut connection = self.connection.take().await?;
        let mut transaction = connection.begin().await.map_err(Error::of("campaign"))?;
        let free = sqlx::query(LOCK)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(Error::of("campaign"))?;
        if free.is_none() {
            transaction
                .rollback()
                .await
                .map_err(Error::of("campaign"))?;
            self.connection.put_back(connection);
            return Ok(None);
        }
        let (epoch, at): (i64, Timestamp) = sqlx::query_as(TAKE)
            .bind(holder.incarnation)
            .bind(&holder.label)
            .bind(micros(holder.lease))
            .fetch_one(&mut *transaction)
            .await
            .map_err(Error::of("campaign"))?;
        transaction.commit().await.map_err(Error::of("campaign"))?;
        self.connection.put_back(connection);
        Ok(Some(Term::new(epoch, self.holder.incarnation, at.0)))
    }

    /// Renews the lease of a term that isn't over.
    ///
    /// # Errors
    /// [`Error::TermOver`], or the database can't be reached: either way the holder must step down.
    async fn renew_term(&mut self, term: &Term) -> Result<Term, Error> {
        const RENEW: &str = "update leader_lease
             set expires_at = clock_timestamp() + $3 * interval '1 microsecond'
             where name = 'leader' and epoch = $1 and incarnation = $2
               and expires_at > clock_timestamp() returning clock_timestamp()";
        let mut connection = self.connection.take().await?;
        let statement = sqlx::query_as(RENEW)
            .bind(term.epoch)
            .bind(term.incarnation)
            .bind(micros(self.holder.lease))
            .fetch_optional(&mut connection);
        let renewed: Option<(Timestamp,)> = self
            .connection
            .database
            .timed("term_renew", "update", statement)
            .await?;
        self.connection.put_back(connection);
        let (at,) = renewed.ok_or(Error::TermOver { epoch: term.epoch })?;
        Ok(Term {
            at: at.0,
            ..term.clone()
        })
    }

    /// Gives the lead up, so that a successor needn't wait for the lease to run out.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn give_up(&mut self, term: &Term) -> Result<(), Error> {
        const RESIGN: &str = "update leader_lease set expires_at = '-infinity'
             where name = 'leader' and epoch = $1 and incarnation = $2";
        let mut connection = self.connection.take().await?;
        let statement = sqlx::query(RESIGN)
            .bind(term.epoch)
            .bind(term.incarnation)
            .execute(&mut connection);
        self.connection
            .database
            .timed("term_resign", "update", statement)
            .await?;
        Ok(())
    }
}

/// The leader's lease and its duties, on a connection of their own.
#[async_trait]
pub trait Lead: Send {
    /// Tries to win the lead: only when the lease has run out.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn campaign(&mut self) -> Result<Option<Term>, Error>;

    /// Renews the lease of a term that isn't over.
    ///
    /// # Errors
    /// [`Error::TermOver`], or the database can't be reached: either way the holder must step down.
    async fn renew(&mut self, term: &Term) -> Result<Term, Error>;

    /// Gives the lead up, so that a successor needn't wait for the lease to run out.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn resign(&mut self, term: &Term) -> Result<(), Error>;

    /// Makes the lanes of a new installation.
    ///
    /// # Errors
    /// The term is over, or the database refuses.
    async fn make_lanes(&mut self, term: &Term, lanes: u16) -> Result<(), Error>;

    /// Makes the windows that are missing to have three ahead, and `reach` hours at least; gives how many.
    ///
    /// # Errors
    /// The term is over, or the database refuses.
    async fn make_windows(&mut self, term: &Term, width: i32, reach: i32) -> Result<usize, Error>;

    /// Brings windows on their way out a step further: marks those of `ripe`, seals those that nobody writes
    /// to any more, and puts out of use what every lane has let go of. Gives how many changed.
    ///
    /// # Errors
    /// The term is over, or the database refuses.
    async fn turn_windows(&mut self, term: &Term, ripe: &[(Table, Hour)]) -> Result<u64, Error>;

    /// Clears what was kept apart of executions that are over for longer than `retention` says; gives how
    /// many.
    ///
    /// # Errors
    /// The term is over, or the database refuses.
    async fn clear_kept(&mut self, term: &Term, retention: Retention) -> Result<u64, Error>;
}

#[async_trait]
impl Lead for Election {
    async fn campaign(&mut self) -> Result<Option<Term>, Error> {
        self.try_to_win().await
    }

    async fn renew(&mut self, term: &Term) -> Result<Term, Error> {
        self.renew_term(term).await
    }

    async fn resign(&mut self, term: &Term) -> Result<(), Error> {
        self.give_up(term).await
    }

    async fn make_lanes(&mut self, term: &Term, lanes: u16) -> Result<(), Error> {
        self.insert_lanes(term, lanes).await
    }

    async fn make_windows(&mut self, term: &Term, width: i32, reach: i32) -> Result<usize, Error> {
        self.attach_windows(term, width, reach).await
    }

    async fn turn_windows(&mut self, term: &Term, ripe: &[(Table, Hour)]) -> Result<u64, Error> {
        self.step_windows(term, ripe).await
    }

    async fn clear_kept(&mut self, term: &Term, retention: Retention) -> Result<u64, Error> {
        self.delete_kept(term, retention).await
    }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
