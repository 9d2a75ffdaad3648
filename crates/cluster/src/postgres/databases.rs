//! Making and dropping databases.

use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};

/// Makes a database on the server of `url`; one that exists stays as it is.
///
/// # Errors
/// The server can't be reached or refuses.
pub(crate) async fn create_database(url: &str, name: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
    if exists {
        return Ok(());
    }
    run(
        &mut connection,
        format!("CREATE DATABASE {} TEMPLATE template0", quoted(name)?),
    )
    .await
    .with_context(|| format!("can't make the database {name}"))
}

/// Drops a database on the server of `url` and ends the sessions in it.
///
/// # Errors
/// The server can't be reached or refuses.
pub(crate) async fn drop_database(url: &str, name: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    run(
        &mut connection,
        format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name)?),
    )
    .await
    .with_context(|| format!("can't drop the database {name}"))
}

/// Drops the databases whose name begins with `prefix`.
///
/// # Errors
/// The server can't be reached or refuses.
pub(crate) async fn drop_databases_like(url: &str, prefix: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    let names: Vec<String> =
        sqlx::query_scalar("SELECT datname FROM pg_database WHERE starts_with(datname, $1)")
            .bind(prefix)
            .fetch_all(&mut connection)
            .await?;
    for name in names {
        drop_database(url, &name).await?;
    }
    Ok(())
}

/// The URL of another database on the same server.
///
/// # Errors
/// `url` is not a PostgreSQL URL.
pub(crate) fn sibling_url(url: &str, name: &str) -> Result<String> {
    let options = PgConnectOptions::from_str(url).context("DATABASE_URL is not a URL")?;
    Ok(options.database(name).to_url_lossy().to_string())
}

async fn connect(url: &str) -> Result<PgConnection> {
    PgConnectOptions::from_str(url)
        .context("not the URL of a PostgreSQL database")?
        .connect()
        .await
        .context("can't connect to PostgreSQL")
}

async fn run(connection: &mut PgConnection, statement: String) -> Result<()> {
    sqlx::query(AssertSqlSafe(statement))
        .execute(connection)
        .await?;
    Ok(())
}

/// Names can't be parameters of a statement, so only harmless ones are let through.
fn quoted(name: &str) -> Result<String> {
    let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    ensure!(
        !name.is_empty() && name.len() <= 63 && name.chars().all(harmless),
        "{name:?} can't be a database's name: use up to 63 of a-z, 0-9 and _"
    );
    Ok(format!("\"{name}\""))
}
