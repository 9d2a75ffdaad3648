//! Nothing outlives the process that started it, not even when that one is killed.
//!
//! The test runs this very program again, as the process that starts things, and kills it. It looks at processes in Linux' way.
#![cfg(target_os = "linux")]

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cluster::{Launch, Member, Postgres, PostgresOptions, Service};
use tempfile::TempDir;

const DIRECTORY: &str = "STARTER_DIRECTORY";
const SOON: Duration = Duration::from_secs(20);

fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !happened() {
        assert!(Instant::now() < deadline, "{what} didn't happen in time");
        thread::sleep(Duration::from_millis(5));
    }
}

fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn server_pid(dir: &Path) -> Option<u32> {
    let file = dir.join("postgres/data/postmaster.pid");
    fs::read_to_string(file).ok()?.lines().next()?.parse().ok()
}

fn options() -> PostgresOptions {
    PostgresOptions {
        shared_buffers_mb: 16,
        ..PostgresOptions::default()
    }
}

/// A process that started a server and a member.
struct Starter {
    process: Child,
    server: u32,
    member: u32,
}

impl Starter {
    /// `path`: where it finds programs, if not where we do.
    fn start(dir: &Path, path: Option<&Path>) -> Self {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command
            .args(["--exact", "starter", "--ignored", "--test-threads=1"])
            .env(DIRECTORY, dir)
            .envs(path.map(|path| ("PATH", path)))
            .stdout(Stdio::null());
        let process = command.spawn().expect("it runs again");
        let told = dir.join("started");
        wait_for("the start", || told.exists());
        let told = fs::read_to_string(&told).expect("it told the member");
        let member = told.parse().expect("a process id");
        let server = server_pid(dir).expect("the server runs");
        assert!(runs(member) && runs(server));
        Self {
            process,
            server,
            member,
        }
    }

    fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }
}

fn directory() -> TempDir {
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary directory")
}

#[test]
fn the_server_and_the_members_end_with_a_starter_that_is_killed() {
    let dir = directory();
    let mut starter = Starter::start(dir.path(), None);
    starter.kill();
    wait_for("the member's end", || !runs(starter.member));
    wait_for("the server's end", || !runs(starter.server));
    Postgres::start(dir.path(), options())
        .expect("all is free again")
        .destroy()
        .unwrap();
}

#[test]
fn without_setpriv_the_next_start_ends_the_server_that_stayed_behind() {
    let dir = directory();
    let programs = dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    for name in ["sh", "id", "sleep"] {
        symlink(Path::new("/bin").join(name), programs.join(name)).unwrap();
    }
    let mut starter = Starter::start(dir.path(), Some(&programs));
    starter.kill();
    assert!(runs(starter.server), "nothing told it to end");
    let server = Postgres::start(dir.path(), options()).expect("the old one makes room");
    assert!(!runs(starter.server));
    server.destroy().unwrap();
    Command::new("kill")
        .args(["-9", &starter.member.to_string()])
        .status()
        .unwrap();
}

/// Not a test: what is killed in the tests above.
#[tokio::test]
#[ignore = "run by the tests above"]
async fn starter() {
    let Some(dir) = env::var_os(DIRECTORY) else {
        return;
    };
    let dir = Path::new(&dir).to_owned();
    let server = {
        let dir = dir.clone();
        // From a thread that ends before we do: children must not depend on it.
        thread::spawn(move || Postgres::start(&dir, options()))
            .join()
            .unwrap()
            .unwrap()
    };
    let script = r#"echo '{"event":"listening","context":{"admin_address":"127.0.0.1:2"}}'
                    exec sleep 600"#;
    let member = Member::start(Launch {
        service: Service::Worker,
        instance: "worker-1".to_owned(),
        binary: concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand-in.sh").into(),
        env: vec![("SCRIPT".to_owned(), script.to_owned())],
        log: dir.join("logs/worker-1.log"),
        deadline: SOON,
    })
    .await
    .unwrap();
    fs::write(dir.join("told"), member.pid().to_string()).unwrap();
    fs::rename(dir.join("told"), dir.join("started")).unwrap();
    thread::sleep(2 * SOON);
    drop(server);
}
