//! A whole cluster: a real server and receiver, with stand-ins for the binaries.
//!
//! The stand-ins are this very program, run again: they listen where they are told, are ready, and
//! end when they are asked to.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cluster::{Cluster, DevFile, ExtraEnv, Options, PostgresOptions, Service};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

fn options(dir: &Path) -> Options {
    let binaries = dir.join("binaries");
    fs::create_dir_all(&binaries).expect("a folder");
    let us = env::current_exe().expect("this program");
    let script = format!(
        "exec {} --exact stand_in --ignored --nocapture",
        us.display()
    );
    let services = [Service::ApiGateway, Service::Scheduler, Service::Worker];
    for service in services {
        let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand-in.sh");
        symlink(stand_in, binaries.join(service.as_str())).expect("a link");
    }
    let extra = |service| ExtraEnv {
        service,
        name: "SCRIPT".to_owned(),
        value: script.clone(),
    };
    Options {
        postgres: PostgresOptions {
            shared_buffers_mb: 16,
            ..PostgresOptions::default()
        },
        binaries: Some(binaries),
        env: services.map(extra).to_vec(),
        ..Options::new(dir)
    }
}

fn directory() -> TempDir {
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary directory")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_loses_members_gets_them_back_and_stops() {
    let dir = directory();
    let cluster = Cluster::start(options(dir.path()))
        .await
        .expect("it starts");
    let dev = DevFile::read(dir.path()).unwrap();
    let names: Vec<&str> = dev
        .processes
        .iter()
        .map(|process| &*process.instance)
        .collect();
    assert_eq!(
        names,
        [
            "scheduler-1",
            "scheduler-2",
            "api-gateway-1",
            "worker-1",
            "worker-2"
        ]
    );
    assert_eq!(
        (dev.gateway_url.clone(), &*dev.key),
        (cluster.gateway_url(), cluster.key())
    );
    PgConnection::connect(&dev.database_url)
        .await
        .expect("the database is there");
    let traces = dev.traces_url.expect("a receiver");
    TcpStream::connect(traces.trim_start_matches("http://"))
        .await
        .expect("it listens");

    cluster.kill("scheduler-1").unwrap();
    assert!(!cluster.member("scheduler-1").unwrap().alive());
    cluster.restart("scheduler-1").await.expect("it comes back");
    let after = DevFile::read(dir.path()).unwrap();
    assert_eq!(
        after.processes[0].address, dev.processes[0].address,
        "the address stays"
    );
    assert_ne!(after.processes[0].pid, dev.processes[0].pid);

    assert_eq!(cluster.add(Service::Worker).await.unwrap(), "worker-3");
    let targets = fs::read_to_string(dir.path().join("prometheus-targets.json")).unwrap();
    assert!(
        targets.contains(&cluster.member("worker-3").unwrap().admin_address()),
        "{targets}"
    );

    cluster.kill("worker-1").unwrap();
    cluster
        .stop()
        .await
        .expect("all that is left ends in order");
    DevFile::read(dir.path()).expect_err("nothing runs");
    forget_data(dir.path());
}

/// Deletes the server's data, which may be elsewhere if the tests run as root.
fn forget_data(dir: &Path) {
    cluster::Postgres::start(
        dir,
        PostgresOptions {
            shared_buffers_mb: 16,
            ..PostgresOptions::default()
        },
    )
    .expect("the directory is free")
    .destroy()
    .expect("the data is deleted");
}

/// Not a test: what the test above starts in the binaries' place.
#[tokio::test]
#[ignore = "run by the test above"]
async fn stand_in() {
    let Ok(admin_address) = env::var("METRICS_ADDR") else {
        return;
    };
    let address = env::var("LISTEN_ADDR").unwrap_or_else(|_| admin_address.clone());
    let admin = TcpListener::bind(&admin_address).await.unwrap();
    println!(
        "\n{{\"event\":\"listening\",\"context\":{{\"address\":\"{address}\",\
         \"admin_address\":\"{admin_address}\"}}}}"
    );
    let mut end = signal(SignalKind::terminate()).unwrap();
    loop {
        tokio::select! {
            Ok((mut caller, _)) = admin.accept() => {
                let _ = caller.read(&mut [0; 1024]).await;
                let _ = caller.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
            _ = end.recv() => return,
        }
    }
}
