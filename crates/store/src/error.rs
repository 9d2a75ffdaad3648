use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// What can go wrong between a scheduler and its database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or could not be reached. Whether a commit went through is unknown.
    #[error("{statement}: {source}")]
    Database {
        /// The statement's name.
        statement: &'static str,
        /// The driver's word.
        source: sqlx::Error,
    },
    /// The database didn't answer in time. Whether a commit went through is unknown.
    #[error("the database didn't answer within {limit:?}")]
    Silent {
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// Somebody else wrote to the lane: its owner is deposed. Nothing of the batch was committed.
    #[error("{statement}: deposed: {detail}")]
    Deposed {
        /// The statement's name.
        statement: &'static str,
        /// PostgreSQL's word.
        detail: String,
    },
    /// Some of a batch's idempotency keys are known: nothing of it was committed.
    #[error("{statement}: {detail}")]
    KeyTaken {
        /// The statement's name.
        statement: &'static str,
        /// PostgreSQL's word.
        detail: String,
    },
    /// Somebody else's transaction is in the way, and was not waited for: nothing was committed.
    #[error("{statement}: blocked by another transaction")]
    Blocked {
        /// The statement's name.
        statement: &'static str,
    },
    /// What was to be put into inboxes was planned too long ago, or by a clock that is wrong: nothing was committed.
    #[error("{statement}: {detail}; was this process stopped, or its machine's clock set?")]
    Untimely {
        /// The statement's name.
        statement: &'static str,
        /// PostgreSQL's word.
        detail: String,
    },
    /// The leader's term is over.
    #[error("the leader's term {epoch} is over")]
    TermOver {
        /// Which.
        epoch: i64,
    },
    /// The lane's lease isn't this owner's any more: it must not be taken over.
    #[error("the lease of lane {lane} under epoch {epoch} is over")]
    LeaseOver {
        /// Which lane.
        lane: u16,
        /// The lease's epoch.
        epoch: i64,
    },
    /// The other schedulers prove themselves with another token than this one.
    #[error(
        "this scheduler's SERVICE_TOKEN isn't that of the installation's schedulers \
             (live: {others:?}), so it takes no lanes: give all schedulers and gateways the same; to change it, stop all schedulers first"
    )]
    OtherToken {
        /// The ids of those that live.
        others: Vec<String>,
    },
    /// There is no leaf for an hour: no leader has made windows for it.
    #[error("{table} has no window for hour {hour}; a leader makes them ahead: is there one?")]
    NoWindow {
        /// Of which table.
        table: &'static str,
        /// Hours since 1970.
        hour: i32,
    },
    /// A row that this program can't make sense of.
    #[error("{table}: {what}")]
    Inconsistent {
        /// Which table.
        table: &'static str,
        /// Which row, and what is wrong with it.
        what: String,
    },
    /// The database's login may not act as the role that tenants' rows are read as.
    #[error(
        "the role watchwork_reader, as which tenants' rows are read, can't be taken: {source}; \
             let a superuser grant it to the login of the database's URL"
    )]
    NoReader {
        /// The driver's word.
        source: sqlx::Error,
    },
    /// The schema can't be brought up to date.
    #[error("migrating the database: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl Error {
    /// Wraps the driver's error of a named statement, telling a deposed owner from the rest.
    pub(crate) fn of(statement: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| {
            let code = source.as_database_error().and_then(|error| error.code());
            // Told apart by class, never by a constraint's name: on a shard the name is another.
            match code.as_deref() {
                Some("23505" | "WW001") => Self::Deposed {
                    statement,
                    detail: source.to_string(),
                },
                Some("WW002") => Self::KeyTaken {
                    statement,
                    detail: source.to_string(),
                },
                Some("WW003") => Self::Untimely {
                    statement,
                    detail: source.to_string(),
                },
                Some("55P03") => Self::Blocked { statement },
                _ => Self::Database { statement, source },
            }
        }
    }

    /// Whether the database has said no: what it refused was not committed, and its connection is good.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Deposed { .. } | Self::KeyTaken { .. } | Self::Blocked { .. } => true,
            Self::Untimely { .. } | Self::NoWindow { .. } => true,
            Self::Database { source, .. } => {
                let answer = source.as_database_error();
                let answer = answer.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
                answer.is_some_and(|answer| matches!(answer.severity(), PgSeverity::Error))
            }
            _ => false,
        }
    }
}
