//! A private PostgreSQL with Watchwork's schema in it.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Postgres, PostgresOptions};
use domain::LaneId;
use domain::lane::Lane;
use sqlx::{Connection, PgConnection};
use store::{Database, Election, Lead, Storage, TermHolder, WindowMap, Writer};
use uuid::Uuid;

/// More than there are connections in a run.
const LANES: u16 = 4;

/// Where the measuring happens.
pub(crate) struct Place {
    server: Postgres,
    pub(crate) database: Database,
    pub(crate) url: String,
    pub(crate) windows: WindowMap,
}

impl Place {
    /// Starts the server in `dir`, with nothing in it but what an installation needs, to be reached over
    /// TCP or over its unix socket.
    pub(crate) async fn make(dir: &Path, over_tcp: bool) -> Result<Self, Box<dyn Error>> {
        let server = Postgres::start(
            dir,
            PostgresOptions {
                shared_buffers_mb: 1024,
                ..PostgresOptions::default()
            },
        )?;
        server.drop_database("driver").await?;
        let mut url = server.create_database("driver").await?;
        if !over_tcp {
            url = over_unix_socket(&url).await?;
        }
        let database = Database::connect(&url, 2, Arc::new(|_, _, _| {})).await?;
        database.install(LANES, [7; 16]).await?;
        let holder = TermHolder {
            incarnation: Uuid::new_v4(),
            label: "driver".to_owned(),
            lease: Duration::from_secs(60),
        };
        let mut election = Election::new(database.clone(), holder);
        let term = election.campaign().await?.ok_or("somebody else leads")?;
        election.make_windows(&term, 24, 1).await?;
        election.make_lanes(&term, LANES).await?;
        let windows = database.windows().await?;
        Ok(Self {
            server,
            database,
            url,
            windows,
        })
    }

    /// A lane as its chain tells it.
    pub(crate) async fn lane(&self, number: usize) -> Result<Lane, Box<dyn Error>> {
        let lane = LaneId(u16::try_from(number)?);
        Ok(Writer::new(self.database.clone()).replay(lane).await?)
    }

    /// Stops the server and deletes its data.
    pub(crate) fn remove(self) -> Result<(), Box<dyn Error>> {
        Ok(self.server.destroy()?)
    }
}

async fn over_unix_socket(url: &str) -> Result<String, Box<dyn Error>> {
    let mut connection = PgConnection::connect(url).await?;
    let folder: String = sqlx::query_scalar("select current_setting('unix_socket_directories')")
        .fetch_one(&mut connection)
        .await?;
    Ok(format!("{url}?host={folder}"))
}
