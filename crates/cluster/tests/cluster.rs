//! What stops a cluster from starting is said clearly, and leaves nothing behind.

use cluster::{Cluster, DevFile, Options};
use tempfile::TempDir;

fn options(dir: &TempDir, binaries: &TempDir) -> Options {
    Options {
        database_url: Some("postgres://nobody@127.0.0.1:1/nothing".to_owned()),
        binaries: Some(binaries.path().to_owned()),
        receiver: false,
        ..Options::new(dir.path())
    }
}

async fn why_not(options: Options) -> String {
    match Cluster::start(options).await {
        Ok(_) => panic!("it can't have started"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn a_missing_binary_is_named() {
    let (dir, binaries) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let error = why_not(options(&dir, &binaries)).await;
    assert!(
        error.contains("scheduler: build it with `cargo build"),
        "{error}"
    );
    DevFile::read(dir.path()).expect_err("nothing runs");
}

#[tokio::test]
async fn a_scheduler_that_fails_is_quoted() {
    let (dir, binaries) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand-in.sh");
    std::os::unix::fs::symlink(stand_in, binaries.path().join("scheduler")).unwrap();
    let mut options = options(&dir, &binaries);
    options.env.push(cluster::ExtraEnv {
        service: cluster::Service::Scheduler,
        name: "SCRIPT".to_owned(),
        value: "echo $INSTANCE_ID has $LANES lanes and no database; exit 1".to_owned(),
    });
    let error = why_not(options).await;
    assert!(
        error.contains("scheduler-1 has 16 lanes and no database"),
        "{error}"
    );
}

#[tokio::test]
async fn one_process_can_be_told_something_else_than_the_others() {
    let (dir, binaries) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand-in.sh");
    std::os::unix::fs::symlink(stand_in, binaries.path().join("scheduler")).unwrap();
    let mut options = options(&dir, &binaries);
    let told = |instance: &str, name: &str, value: &str| cluster::InstanceEnv {
        instance: instance.to_owned(),
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let script = "echo $INSTANCE_ID has $LANES lanes; exit 1";
    options.instance_env = vec![
        told("scheduler-1", "SCRIPT", script),
        told("scheduler-1", "LANES", "7"),
        told("scheduler-2", "LANES", "8"),
    ];
    let error = why_not(options).await;
    assert!(error.contains("scheduler-1 has 7 lanes"), "{error}");
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let (dir, binaries) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let holder = std::fs::File::create(dir.path().join("cluster.lock")).unwrap();
    holder.lock().unwrap();
    let error = why_not(options(&dir, &binaries)).await;
    assert!(error.contains("in use by another run"), "{error}");
}
