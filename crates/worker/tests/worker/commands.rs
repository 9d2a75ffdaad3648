use std::process::Stdio;
use std::time::{Duration, Instant};

use proto::v1;
use proto::v1::AttemptResult;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

use crate::scheduler::{Conversation, SOON, Scheduler, held, task, worker_id};
use crate::worker;

const LEASE: Duration = Duration::from_secs(5);

fn command(number: u64, payload: serde_json::Value) -> v1::Task {
    task(0, number, "command", &payload.to_string())
}

fn shell(number: u64, script: &str) -> v1::Task {
    command(number, json!({"argv": ["sh", "-c", script]}))
}

/// A program that starts another one, tells its process id through a file, and waits for it.
fn family(number: u64, file: &std::path::Path) -> v1::Task {
    let script = format!(
        "trap '' TERM; sleep 1000 & echo $! > {}; wait",
        file.display()
    );
    shell(number, &script)
}

async fn result_of(stream: &mut Conversation, task: v1::Task) -> v1::Result {
    stream.dispatch([task]).await;
    let result = stream.result().await;
    stream
        .settle(&result, v1::SettlementVerdict::Recorded)
        .await;
    result
}

async fn read_pid(file: &std::path::Path) -> Pid {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some(pid) = text.strip_suffix('\n') {
            return Pid::from_raw(pid.parse().unwrap()).unwrap();
        }
        assert!(begun.elapsed() < SOON, "the program didn't start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn dies(pid: Pid) {
    let begun = Instant::now();
    // A dead process that nobody has waited for yet is still there, as a zombie.
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let is_zombie = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    while test_kill_process(pid).is_ok() && !is_zombie() {
        assert!(begun.elapsed() < SOON, "{pid:?} lives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_programs_output_and_end_become_the_result() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;

    let payload = json!({"argv": ["sh", "-c", "cat; echo $NAME >&2; echo $WORKER_KEY$WATCHWORK_ATTEMPT"],
        "stdin": "in ", "env": {"NAME": "err"}, "cwd": "/"});
    let done = result_of(&mut stream, command(1, payload)).await;
    assert_eq!(done.result(), AttemptResult::Success);
    assert_eq!(done.output, "in err\n1\n");

    let cases = [
        (
            json!({"argv": ["sh", "-c", "echo broken; exit 3"]}),
            "exit_3",
            false,
        ),
        (
            json!({"argv": ["sh", "-c", "kill -USR1 $$"]}),
            "signal_10",
            false,
        ),
        (
            json!({"argv": ["no-such-program"]}),
            "program_not_found",
            true,
        ),
        (
            json!({"argv": ["/etc/passwd"]}),
            "program_not_executable",
            true,
        ),
        (json!({"argv": []}), "payload", true),
        (json!({"argv": ["true"], "shell": true}), "payload", true),
    ];
    for (number, (payload, class, permanent)) in (2..).zip(cases) {
        let result = result_of(&mut stream, command(number, payload)).await;
        let error = result.error.clone().unwrap();
        assert_eq!(
            (&*error.class, error.permanent),
            (class, permanent),
            "{}",
            error.message
        );
        assert_eq!(error.message.contains("broken"), class == "exit_3");
    }

    let large = result_of(
        &mut stream,
        shell(10, "head -c 1000000 /dev/zero | tr '\\0' x"),
    )
    .await;
    assert!(large.output.len() <= 64 << 10);
    assert!(large.output.ends_with(b" bytes more]\n"));
}

#[tokio::test]
async fn a_programs_whole_group_is_killed_when_its_time_is_over() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let mut stubborn = family(1, &file);
    stubborn.timeout_us = 500_000;
    let result = result_of(&mut stream, stubborn).await;
    assert_eq!(result.result(), AttemptResult::Timeout);
    dies(read_pid(&file).await).await;
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    let result = result_of(&mut stream, shell(1, "sleep 1000 & echo $!")).await;
    assert_eq!(result.result(), AttemptResult::Success);
    let pid = std::str::from_utf8(&result.output)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    dies(Pid::from_raw(pid).unwrap()).await;
}

#[tokio::test]
async fn programs_do_not_outlive_a_worker_that_is_killed() {
    let mut a = Scheduler::start("a").await;
    let mut worker = tokio::process::Command::new(env!("CARGO_BIN_EXE_worker"))
        .env("SCHEDULERS", &a.address)
        .env("WORKER_KEY", "wk_0123456789abcdef_secret")
        .env("WORKER_ID", worker_id())
        .env("METRICS_ADDR", "127.0.0.1:0")
        .env("ALLOW_COMMAND", "true")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let stream = a.welcome(LEASE).await;
    assert_eq!(
        stream.hello.job_types,
        ["command", "count", "fail", "noop", "sleep"]
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    stream.dispatch([family(1, &file)]).await;
    let pid = read_pid(&file).await;
    let worker_pid = Pid::from_raw(worker.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(worker_pid, Signal::KILL).unwrap();
    worker.wait().await.unwrap();
    dies(pid).await;
}

#[tokio::test]
async fn a_programs_whole_group_is_killed_when_its_execution_is_cancelled() {
    let mut a = Scheduler::start("a").await;
    let _worker = worker::start(&a, 4);
    let mut stream = a.welcome(LEASE).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let stubborn = family(1, &file);
    stream.dispatch([stubborn.clone()]).await;
    let pid = read_pid(&file).await;
    stream.cancel([held(&stubborn)]).await;
    assert_eq!(stream.result().await.result(), AttemptResult::Cancelled);
    dies(pid).await;
}
