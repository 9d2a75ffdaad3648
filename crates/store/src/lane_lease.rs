//! Who lives, and who owns which lane: leases by the database's clock.

use async_trait::async_trait;
use std::time::Duration;

use domain::lane::DatabaseIdentity;
use domain::{LaneId, Micros};
use sqlx::Connection;
use uuid::Uuid;

use crate::database::{Dedicated, Purpose};
use crate::leader::micros;
use crate::timestamp::Timestamp;
use crate::{Database, Election, Error, Term};

/// A scheduler that holds lanes.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// Its id.
    pub id: String,
    /// Random for each process: what is compared.
    pub incarnation: Uuid,
    /// Where others reach it.
    pub address: String,
    /// How long a lane's lease lasts without renewal.
    pub lease: Duration,
    /// A hash of what it proves itself to the others with.
    pub proof: [u8; 32],
}

impl Claimant {
    fn lease_of(&self, (lane, epoch): (i16, i64)) -> LaneLease {
        LaneLease {
            lane: lane_id(lane),
            epoch,
            incarnation: self.incarnation,
        }
    }
}

/// A lane's lease as its holder has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneLease {
    /// Which lane.
    pub lane: LaneId,
    /// The number of the reign; it only grows.
    pub epoch: i64,
    /// Whose.
    pub incarnation: Uuid,
}

/// A lane's lease as everybody may read it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneOwner {
    /// Which lane.
    pub lane: LaneId,
    /// The owner's scheduler id; `None` if the lease has run out.
    pub holder: Option<String>,
    /// Its incarnation.
    pub incarnation: Uuid,
    /// The number of the reign, over or not.
    pub epoch: i64,
}

/// The live schedulers and the lanes' owners, at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Membership {
    /// Id and address of the live schedulers, by id.
    pub schedulers: Vec<(String, String)>,
    /// Every lane, by number.
    pub lanes: Vec<LaneOwner>,
}

/// What a renewal found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renewal {
    /// The leases that are held.
    pub leases: Vec<LaneLease>,
    /// The database's time.
    pub now: Micros,
    /// Which database it is: another one, or another timeline of it, may lack the last rows.
    pub identity: DatabaseIdentity,
    /// When it had this scheduler's last renewal, by what it knows itself; `None`: it had none.
    pub last: Option<Micros>,
}

/// A scheduler's own connection for its leases.
pub struct LeaseKeeper(Dedicated);

impl LeaseKeeper {
    /// A keeper that isn't connected yet.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self(Dedicated::new(database, Purpose::Leases))
    }
}

/// A scheduler's leases, on a connection of their own.
#[async_trait]
pub trait KeepLeases: Send {
    /// Lets a scheduler in that proves itself as the others do. The proof of one that `insists` counts from
    /// here on if no other scheduler has lived, and the last proof wasn't confirmed, for a whole lease.
    ///
    /// # Errors
    /// [`Error::OtherToken`], or the database can't be reached.
    async fn admit(&mut self, claimant: &Claimant, insists: bool) -> Result<(), Error>;

    /// Says that this scheduler lives, and renews its leases.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn renew(&mut self, claimant: &Claimant) -> Result<Renewal, Error>;

    /// Takes up to `most` lanes whose leases have run out. Locks first and
    /// reads the clock afterwards.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn take(&mut self, claimant: &Claimant, most: usize) -> Result<Vec<LaneLease>, Error>;

    /// Gives lanes up that this scheduler has stopped writing to, for anybody to take.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn release(&mut self, claimant: &Claimant, lanes: &[LaneId]) -> Result<(), Error>;

    /// Says that this scheduler is gone, and gives up the lanes that it has stopped writing to: at once, so that
    /// whoever sees them free sees among how many they are to be shared.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn leave(&mut self, claimant: &Claimant, lanes: &[LaneId]) -> Result<(), Error>;

    /// Who lives and who owns what. A scheduler is taken as alive for one lane lease after its last word.
    ///
    /// # Errors
    /// The database can't be reached.
    async fn membership(&mut self, lease: Duration) -> Result<Membership, Error>;
}

#[async_trait]
impl KeepLeases for LeaseKeeper {
    async fn admit(&mut self, claimant: &Claimant, insists: bool) -> Result<(), Error> {
        // The row is locked before it is compared: of two newcomers the second sees the first's.
        const ADMIT: &str = "insert into service_token as t (proof, confirmed)
             select sha256(id_key || $1), clock_timestamp() from installation
             on conflict (only_one) do update
                 set proof = excluded.proof, confirmed = excluded.confirmed
                 where t.proof = excluded.proof or ($4
                     and t.confirmed < clock_timestamp() - $2 * interval '1 microsecond'
                     and not exists (select from scheduler s where s.id <> $3
                         and s.seen > clock_timestamp() - $2 * interval '1 microsecond'))";
        let mut connection = self.0.take().await?;
        let admit = sqlx::query(ADMIT)
            .bind(&claimant.proof[..])
            .bind(micros(claimant.lease))
            .bind(&claimant.id)
            .bind(insists)
            .execute(&mut connection);
        let admitted = self.0.database.timed("admit", "update", admit).await?;
        self.0.put_back(connection);
        if admitted.rows_affected() == 1 {
            return Ok(());
        }
        let living = self.membership(claimant.lease).await?.schedulers;
        let others = living.into_iter().filter(|(id, _)| *id != claimant.id);
        Err(Error::OtherToken {
            others: others.map(|(id, _)| id).collect(),
        })
    }

    async fn renew(&mut self, claimant: &Claimant) -> Result<Renewal, Error> {
        const PRESENT: &str = "insert into scheduler (id, incarnation, address, seen)
             values ($1, $2, $3, clock_timestamp())
             on conflict (id) do update set incarnation = excluded.incarnation,
                 address = excluded.address, seen = excluded.seen
             returning seen, (select system_identifier from pg_control_system()),
                 ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int4,
                 (select s.seen from scheduler s where s.id = $1 and s.incarnation = $2)";
        const RENEW: &str = "update lane_lease
             set expires_at = clock_timestamp() + $2 * interval '1 microsecond'
             where incarnation = $1 and expires_at > clock_timestamp() returning lane, epoch";
        let mut connection = self.0.take().await?;
        let present = sqlx::query_as(PRESENT)
            .bind(&claimant.id)
            .bind(claimant.incarnation)
            .bind(&claimant.address)
            .fetch_one(&mut connection);
        let (now, system, timeline, last): (Timestamp, i64, i32, Option<Timestamp>) = self
            .0
            .database
            .timed("scheduler_present", "update", present)
            .await?;
        let renew = sqlx::query_as(RENEW)
            .bind(claimant.incarnation)
            .bind(micros(claimant.lease))
            .fetch_all(&mut connection);
        let leases: Vec<(i16, i64)> = self.0.database.timed("lane_renew", "update", renew).await?;
        self.0.put_back(connection);
        let leases = leases.into_iter().map(|lease| claimant.lease_of(lease));
        Ok(Renewal {
            leases: leases.collect(),
            now: now.0,
            identity: DatabaseIdentity { system, timeline },
            last: last.map(|last| last.0),
        })
    }

    async fn take(&mut self, claimant: &Claimant, most: usize) -> Result<Vec<LaneLease>, Error> {
        const LOCK: &str = "select lane from lane_lease where expires_at < clock_timestamp()
             order by lane limit $1 for update skip locked";
        // By the clock, so that no number comes again if the database loses its last changes.
        const TAKE: &str = "update lane_lease set incarnation = $2, holder = $3,
             epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000)::int8),
             expires_at = clock_timestamp() + $4 * interval '1 microsecond'
             where lane = any($1) returning lane, epoch";
        let mut connection = self.0.take().await?;
        let mut transaction = connection.begin().await.map_err(Error::of("lane_take"))?;
        let free: Vec<i16> = sqlx::query_scalar(LOCK)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(&mut *transaction)
            .await
            .map_err(Error::of("lane_take"))?;
        let taken: Vec<(i16, i64)> = sqlx::query_as(TAKE)
            .bind(&free)
            .bind(claimant.incarnation)
            .bind(&claimant.id)
            .bind(micros(claimant.lease))
            .fetch_all(&mut *transaction)
            .await
            .map_err(Error::of("lane_take"))?;
        transaction.commit().await.map_err(Error::of("lane_take"))?;
        self.0.put_back(connection);
        Ok(taken
            .into_iter()
            .map(|lease| claimant.lease_of(lease))
            .collect())
    }

    async fn release(&mut self, claimant: &Claimant, lanes: &[LaneId]) -> Result<(), Error> {
        const RELEASE: &str = "update lane_lease set expires_at = '-infinity'
             where lane = any($1) and incarnation = $2";
        let lanes: Vec<i16> = lanes.iter().map(|lane| number(*lane)).collect();
        let mut connection = self.0.take().await?;
        let statement = sqlx::query(RELEASE)
            .bind(lanes)
            .bind(claimant.incarnation)
            .execute(&mut connection);
        self.0
            .database
            .timed("lane_release", "update", statement)
            .await?;
        self.0.put_back(connection);
        Ok(())
    }

    async fn leave(&mut self, claimant: &Claimant, lanes: &[LaneId]) -> Result<(), Error> {
        const LEAVE: &str =
            "with gone as (delete from scheduler where id = $1 and incarnation = $2)
             update lane_lease set expires_at = '-infinity' where lane = any($3) and incarnation = $2";
        let lanes: Vec<i16> = lanes.iter().map(|lane| number(*lane)).collect();
        let mut connection = self.0.take().await?;
        let statement = sqlx::query(LEAVE)
            .bind(&claimant.id)
            .bind(claimant.incarnation)
            .bind(lanes)
            .execute(&mut connection);
        self.0
            .database
            .timed("scheduler_leave", "update", statement)
            .await?;
        Ok(())
    }

    async fn membership(&mut self, lease: Duration) -> Result<Membership, Error> {
        const SCHEDULERS: &str = "select id, address from scheduler
             where seen > clock_timestamp() - $1 * interval '1 microsecond' order by id";
        const LANES: &str =
            "select lane, holder, incarnation, expires_at > clock_timestamp(), epoch
             from lane_lease order by lane";
        let mut connection = self.0.take().await?;
        let statement = sqlx::query_as(SCHEDULERS)
            .bind(micros(lease))
            .fetch_all(&mut connection);
        let schedulers = self
            .0
            .database
            .timed("schedulers", "select", statement)
            .await?;
        let statement = sqlx::query_as(LANES).fetch_all(&mut connection);
        let rows: Vec<(i16, String, Uuid, bool, i64)> = self
            .0
            .database
            .timed("lane_owners", "select", statement)
            .await?;
        self.0.put_back(connection);
        let lanes = rows
            .into_iter()
            .map(|(lane, holder, incarnation, valid, epoch)| LaneOwner {
                lane: lane_id(lane),
                holder: valid.then_some(holder),
                incarnation,
                epoch,
            });
        Ok(Membership {
            schedulers,
            lanes: lanes.collect(),
        })
    }
}

impl Election {
    /// Makes the lanes of a new installation: a lease that has run out and the first row of the chain for
    /// each that has none.
    ///
    /// # Errors
    /// The term is over, or the database refuses.
    pub(crate) async fn insert_lanes(&mut self, term: &Term, lanes: u16) -> Result<(), Error> {
        const LEASES: &str = "insert into lane_lease (lane, epoch, incarnation, holder, expires_at)
             select lane, 0, '00000000-0000-0000-0000-000000000000', '', '-infinity'
             from unnest($1::int2[]) lane on conflict do nothing returning lane";
        let mut connection = self.connection.take().await?;
        let mut fenced = term.begin(&mut connection).await?;
        let wanted: Vec<i16> = (0..lanes).map(|lane| number(LaneId(lane))).collect();
        let new: Vec<i16> = sqlx::query_scalar(LEASES)
            .bind(wanted)
            .fetch_all(&mut *fenced)
            .await
            .map_err(Error::of("make_lanes"))?;
        crate::chain::insert_genesis(&mut fenced, &new, term.now()).await?;
        fenced.commit().await.map_err(Error::of("make_lanes"))?;
        self.connection.put_back(connection);
        Ok(())
    }
}

pub(crate) fn lane_id(lane: i16) -> LaneId {
    LaneId(u16::try_from(lane).unwrap_or(0))
}

pub(crate) fn number(lane: LaneId) -> i16 {
    i16::try_from(lane.0).unwrap_or(i16::MAX)
}
