//! A whole process from start to end: this test binary runs itself as the process.
#![expect(clippy::unwrap_used, reason = "a test fails by panic")]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use service::{Process, ServiceArgs, ServiceName, SpanKind, SpanRecord};

/// What the process does; set in processes that a test started.
const WORK: &str = "WORK_OF_THE_TEST";

#[derive(Parser)]
struct Binary {
    #[command(flatten)]
    service: ServiceArgs,
}

/// The process under test. Does nothing in an ordinary run of the tests.
#[test]
fn as_the_process_under_test() {
    let Ok(work) = std::env::var(WORK) else {
        return;
    };
    let args = Binary::parse_from(["binary"]).service;
    let code = service::run(ServiceName::Worker, args, |process| work_of(work, process));
    assert_eq!(code, ExitCode::SUCCESS);
}

async fn work_of(work: String, process: Process) -> anyhow::Result<()> {
    process.readiness.set("slots", Ok(()));
    tracing::info!(event = "working", admin_address = %process.admin_addr, "working");
    match work.as_str() {
        "obedient" => process.shutdown.cancelled().await,
        "stubborn" => std::future::pending().await,
        "panics" => panic!("it had to happen"),
        "fails" => anyhow::bail!("no database"),
        "traces" => {
            process.spans.emit(some_span());
            process.shutdown.cancelled().await;
        }
        other => panic!("{other:?} is no work"),
    }
    Ok(())
}

fn some_span() -> SpanRecord {
    SpanRecord {
        name: "task_execution",
        kind: SpanKind::Consumer,
        trace_id: service::new_trace_id(),
        span_id: service::new_span_id(),
        parent_span_id: None,
        parent_is_remote: false,
        start: SystemTime::now(),
        end: SystemTime::now(),
        attributes: Vec::new(),
        links: Vec::new(),
        error: None,
        tracestate: String::new(),
    }
}

/// A process that was started, and its log.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    admin: String,
}

impl Running {
    fn start(work: &str, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "as_the_process_under_test", "--nocapture"])
            .env(WORK, work)
            .env("METRICS_ADDR", "127.0.0.1:0")
            .env("INSTANCE_ID", "worker-1")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Self {
            child,
            lines,
            admin: String::new(),
        };
        assert_eq!(running.line("started")["service"], "worker");
        let working = running.line("working");
        running.admin = working["context"]["admin_address"]
            .as_str()
            .unwrap()
            .to_owned();
        running
    }

    /// The next log line about `event`.
    fn line(&mut self, event: &str) -> Value {
        for line in self.lines.by_ref() {
            // The test harness writes lines of its own.
            let Ok(line) = serde_json::from_str::<Value>(&line.unwrap()) else {
                continue;
            };
            if line["event"] == event {
                return line;
            }
        }
        panic!("the log ended without a line about {event:?}")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Status code, headers and body of a GET from the admin port.
    fn get(&self, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_owned(), body.to_owned())
    }

    /// Waits for its end; whether it ended well.
    fn ended_well(mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < deadline, "the process doesn't end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // For a test that failed before the process ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_process_serves_health_and_metrics_and_ends_well_after_a_signal() {
    let mut process = Running::start("obedient", &[]);
    assert_eq!(process.get("/health/live").0, 200);
    assert_eq!(process.get("/health/ready").0, 200);
    let status: Value = serde_json::from_str(&process.get("/health/status").2).unwrap();
    assert_eq!(status["status"], "HEALTHY");
    assert_eq!(status["components"]["slots"]["status"], "HEALTHY");
    assert!(status["uptime_seconds"].is_u64() && status["version"].is_string());

    let (code, head, metrics) = process.get("/metrics");
    assert_eq!(code, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{head}"
    );
    for series in [
        "build_info{revision=",
        "process_resident_memory_bytes ",
        "runtime_lag_seconds_bucket{le=\"0.0025\"} ",
        "trace_spans_exported_total 0",
        "trace_spans_dropped_total{reason=\"queue_full\"} 0",
        "trace_export_queue_depth 0",
        "log_lines_dropped_total 0",
    ] {
        assert!(
            metrics.lines().any(|line| line.starts_with(series)),
            "{series} in {metrics}"
        );
    }

    process.signal(Signal::INT);
    assert_eq!(
        process.line("shutdown_requested")["context"]["signal"],
        "SIGINT"
    );
    let last = process.line("stopped");
    assert_eq!(
        (&last["level"], &last["instance_id"]),
        (&"INFO".into(), &"worker-1".into())
    );
    assert!(process.ended_well());
}

#[test]
fn a_draining_process_is_not_ready_and_a_second_signal_ends_it() {
    let mut process = Running::start("stubborn", &[("SHUTDOWN_GRACE", "1h")]);
    process.signal(Signal::TERM);
    process.line("shutdown_requested");
    let (code, _, body) = process.get("/health/ready");
    assert_eq!(
        (code, body.as_str()),
        (503, r#"{"reason":"draining","status":"not_ready"}"#)
    );
    assert_eq!(process.get("/health/live").0, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.line("stopped")["level"], "ERROR");
    assert!(!process.ended_well());
}

#[test]
fn a_process_that_doesnt_drain_in_time_is_cut_off() {
    let mut process = Running::start("stubborn", &[("SHUTDOWN_GRACE", "100ms")]);
    process.signal(Signal::TERM);
    assert_eq!(process.line("stopped")["context"]["grace"], "100ms");
    assert!(!process.ended_well());
}

#[test]
fn errors_and_panics_are_logged_and_end_badly() {
    let mut process = Running::start("fails", &[]);
    assert_eq!(process.line("stopped")["context"]["error"], "no database");
    assert!(!process.ended_well());

    let mut process = Running::start("panics", &[]);
    assert_eq!(
        process.line("panic")["message"],
        "panicked: it had to happen"
    );
    process.line("stopped");
    assert!(!process.ended_well());
}

#[test]
fn a_reader_of_the_log_that_is_gone_ends_nothing() {
    let mut process = Running::start("stubborn", &[("SHUTDOWN_GRACE", "1h")]);
    drop(std::mem::replace(&mut process.lines, closed_lines()));
    process.signal(Signal::TERM);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !process
        .get("/metrics")
        .2
        .contains("\nlog_lines_dropped_total 1\n")
    {
        assert!(
            Instant::now() < deadline,
            "the line about the signal isn't counted as lost"
        );
    }
    assert_eq!(process.get("/health/live").0, 200);
}

fn closed_lines() -> Lines<BufReader<ChildStdout>> {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    child.wait().unwrap();
    BufReader::new(child.stdout.take().unwrap()).lines()
}

#[test]
fn a_trace_store_that_hangs_delays_the_end_by_its_deadline_and_no_more() {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", store.local_addr().unwrap());
    let process = Running::start("traces", &[("TRACING_ENDPOINT", &endpoint)]);
    let begun = Instant::now();
    process.signal(Signal::TERM);
    assert!(process.ended_well());
    assert!(begun.elapsed() < Duration::from_secs(6));
}
