//! Members, with shell scripts in the binaries' place. Looks at processes in Linux' way.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use cluster::{Launch, Member, Service};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(5);
const LISTENS: &str = r#"echo '{"event":"log","message":"begin"}'
echo '{"event":"listening","context":{"address":"127.0.0.1:1","admin_address":"127.0.0.1:2"}}'"#;

fn launch(dir: &TempDir, script: &str) -> Launch {
    Launch {
        service: Service::Scheduler,
        instance: "scheduler-1".to_owned(),
        binary: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand-in.sh").into(),
        env: vec![("SCRIPT".to_owned(), script.to_owned())],
        log: dir.path().join("logs/scheduler-1.log"),
        deadline: SOON,
    }
}

async fn start(dir: &TempDir, script: &str) -> Member {
    Member::start(launch(dir, script))
        .await
        .expect("it listens")
}

fn state_of(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next())
        .expect("a state")
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_member_says_where_it_listens_and_ends_in_order() {
    let dir = TempDir::new().unwrap();
    let script = format!("{LISTENS}\ntrap 'exit 3' TERM\nwhile :; do sleep 0.01; done");
    let member = start(&dir, &script).await;
    assert_eq!(member.address().as_deref(), Some("127.0.0.1:1"));
    assert_eq!(member.admin_address(), "127.0.0.1:2");
    assert!(member.alive());
    let status = member.terminate(SOON).await.unwrap();
    assert_eq!(status.code(), Some(3));
    assert!(!member.alive());
}

#[tokio::test]
async fn an_early_end_is_an_error_with_the_end_of_the_log() {
    let dir = TempDir::new().unwrap();
    let error = Member::start(launch(&dir, "echo no database >&2\nexit 1"))
        .await
        .expect_err("it didn't listen")
        .to_string();
    assert!(
        error.contains("scheduler-1 ended while it started"),
        "{error}"
    );
    assert!(error.contains("no database"), "{error}");
}

#[tokio::test]
async fn a_killed_member_starts_again_and_keeps_its_log() {
    let dir = TempDir::new().unwrap();
    let member = start(&dir, &format!("echo run $$\n{LISTENS}\nexec sleep 600")).await;
    let first = member.pid();
    member.kill().unwrap();
    assert!(!member.alive());
    member.restart().await.unwrap();
    assert!(member.alive());
    let log = fs::read_to_string(member.log()).unwrap();
    assert!(
        log.contains(&format!("run {first}")) && log.contains(&format!("run {}", member.pid()))
    );
}

#[tokio::test]
async fn a_paused_member_is_alive_and_hears_its_end() {
    let dir = TempDir::new().unwrap();
    let member = start(&dir, &format!("{LISTENS}\nexec sleep 600")).await;
    member.pause().unwrap();
    while state_of(member.pid()) != 'T' {
        tokio::task::yield_now().await;
    }
    assert!(member.alive());
    let status = member
        .terminate(SOON)
        .await
        .expect("in time, though it was paused");
    assert!(!status.success());
}

#[tokio::test]
async fn one_that_ignores_its_end_is_killed_after_the_deadline() {
    let dir = TempDir::new().unwrap();
    let script = format!("trap '' TERM\n{LISTENS}\nwhile :; do sleep 0.01; done");
    let member = start(&dir, &script).await;
    let error = member
        .terminate(Duration::from_millis(100))
        .await
        .expect_err("it ignores it");
    assert!(error.to_string().contains("was killed"), "{error}");
    assert!(!member.alive());
}

#[tokio::test]
async fn a_dropped_member_takes_what_it_started_with_it() {
    let dir = TempDir::new().unwrap();
    let member = start(
        &dir,
        &format!(
            "sleep 600 &\necho $! > {}/child\n{LISTENS}\nwait",
            dir.path().display()
        ),
    )
    .await;
    let child: u32 = fs::read_to_string(dir.path().join("child"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let parent = member.pid();
    assert!(exists(parent) && exists(child));
    drop(member);
    let deadline = std::time::Instant::now() + SOON;
    while exists(child) && state_of(child) != 'Z' {
        assert!(
            std::time::Instant::now() < deadline,
            "the member's child lives on"
        );
        tokio::task::yield_now().await;
    }
    assert!(!exists(parent));
}
