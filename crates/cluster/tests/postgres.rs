//! The private server, as a real server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cluster::{Postgres, PostgresOptions};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

fn directory() -> TempDir {
    // Open to others: the server's account must get in where the tests run as root.
    tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary directory")
}

fn start(dir: &Path) -> Postgres {
    Postgres::start(
        dir,
        PostgresOptions {
            shared_buffers_mb: 16,
            ..PostgresOptions::default()
        },
    )
    .expect("the server starts")
}

async fn numbers(url: &str) -> Vec<i32> {
    let mut connection = PgConnection::connect(url)
        .await
        .expect("the database takes connections");
    sqlx::query_scalar("SELECT n FROM kept ORDER BY n")
        .fetch_all(&mut connection)
        .await
        .expect("the table is there")
}

async fn keep(url: &str, number: i32) {
    let mut connection = PgConnection::connect(url)
        .await
        .expect("the database takes connections");
    let statement = "CREATE TABLE IF NOT EXISTS kept (n int)";
    sqlx::query(statement)
        .execute(&mut connection)
        .await
        .expect("a table is made");
    let insert = sqlx::query("INSERT INTO kept VALUES ($1)").bind(number);
    insert
        .execute(&mut connection)
        .await
        .expect("a row is kept");
}

#[tokio::test]
async fn what_was_committed_survives_a_stop_a_restart_and_a_kill() {
    let dir = directory();
    let server = start(dir.path());
    let url = server.create_database("one").await.unwrap();
    keep(&url, 1).await;
    server.stop().expect("it stops in order");

    let server = start(dir.path());
    assert_eq!(server.url("one"), url, "the address stays");
    keep(&url, 2).await;
    server.kill().unwrap();
    server.restart().expect("it recovers in place");
    keep(&url, 3).await;
    server.kill().unwrap();
    drop(server);

    let server = start(dir.path());
    assert_eq!(numbers(&url).await, [1, 2, 3]);
    server.destroy().unwrap();
}

#[tokio::test]
async fn databases_are_apart_and_a_dropped_one_is_gone() {
    let dir = directory();
    let server = start(dir.path());
    let one = server.create_database("one").await.unwrap();
    let two = server.create_database("two").await.unwrap();
    keep(&one, 1).await;
    keep(&two, 2).await;
    assert_eq!(
        (numbers(&one).await, numbers(&two).await),
        (vec![1], vec![2])
    );
    let watching = PgConnection::connect(&two)
        .await
        .expect("a session that is in the way");
    server
        .drop_database("two")
        .await
        .expect("it is dropped all the same");
    PgConnection::connect(&two).await.expect_err("it is gone");
    drop(watching);
    server
        .create_database("robert'); --")
        .await
        .expect_err("not a name");
    server.destroy().unwrap();
}

#[tokio::test]
async fn a_second_server_in_one_directory_is_refused() {
    let dir = directory();
    let server = start(dir.path());
    let error = Postgres::start(dir.path(), PostgresOptions::default())
        .expect_err("the directory is taken")
        .to_string();
    assert!(error.contains("in use by another run"), "{error}");
    server.destroy().unwrap();
}
