//! For tests that need PostgreSQL: a database of their own.

use std::env;
use std::thread;

use anyhow::{Context, Result};

use crate::postgres::{create_database, drop_database, drop_databases_like, sibling_url};
use crate::secrets::random_id;

/// How the names of tests' databases begin.
const PREFIX: &str = "test_";

/// An empty database on the server of `DATABASE_URL`, dropped with this value.
#[derive(Debug)]
pub struct FreshDatabase {
    server_url: String,
    name: String,
    url: String,
}

/// Makes an empty database for one test.
///
/// # Panics
/// `DATABASE_URL` is not set (run `make test`), or its server can't make a database.
pub async fn fresh_database() -> FreshDatabase {
    let server_url =
        env::var("DATABASE_URL").expect("DATABASE_URL names no PostgreSQL server: run `make test`");
    let name = format!("{PREFIX}{}", random_id());
    create_database(&server_url, &name)
        .await
        .expect("the test server makes a database");
    let url = sibling_url(&server_url, &name).expect("DATABASE_URL is a PostgreSQL URL");
    FreshDatabase {
        server_url,
        name,
        url,
    }
}

impl FreshDatabase {
    /// Its URL, with the rights of `DATABASE_URL`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for FreshDatabase {
    fn drop(&mut self) {
        let (server_url, name) = (self.server_url.clone(), self.name.clone());
        // A runtime can't be blocked from inside; a thread of its own may.
        let dropping = thread::spawn(move || -> Result<()> {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("no runtime")?
                .block_on(drop_database(&server_url, &name))
        });
        // What stays behind is dropped by the next run of `with-postgres`.
        let _ = dropping.join();
    }
}

/// Drops the databases that killed tests left on the server.
///
/// # Errors
/// The server can't be reached or refuses.
pub async fn drop_leftover_databases(server_url: &str) -> Result<()> {
    drop_databases_like(server_url, PREFIX).await
}
