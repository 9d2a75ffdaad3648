use crate::running_gateway::{signed, submission};
use crate::scripted_scheduler::{SERVICE_TOKEN, ScriptedScheduler};
use proto::v1::execution_service_client::ExecutionServiceClient;
use proto::v1::{SubmitBatchRequest, SubmitRequest};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let f: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) * 10_000.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn cost() {
    let scheduler = ScriptedScheduler::start("s1");
    let mut child = Command::new("/tmp/gw-release/release/api-gateway")
        .env("SCHEDULERS", &scheduler.address)
        .env("SERVICE_TOKEN", SERVICE_TOKEN)
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("METRICS_ADDR", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().unwrap().unwrap();
        println!("{line}");
        if line.contains("\"listening\"") {
            let at = line.find("127.0.0.1:").unwrap();
            let s: String = line[line.find("\"address\":\"").unwrap() + 11..]
                .chars()
                .take_while(|c| *c != '"')
                .collect();
            let _ = at;
            break s;
        }
    };
    std::thread::spawn(move || {
        for l in lines {
            println!("{}", l.unwrap());
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let connections: Vec<_> = (0..2)
        .map(|_| {
            ExecutionServiceClient::new(service::channel(&format!("http://{address}")).unwrap())
        })
        .collect();
    for callers in [1usize, 32] {
        let n = 100_000 / if callers == 1 { 100 } else { 1 };
        let before = cpu_us(child.id());
        let t = std::time::Instant::now();
        let tasks: Vec<_> = (0..callers).map(|i| {
            let mut c = connections[i % 2].clone();
            tokio::spawn(async move { for _ in 0..n / callers { c.submit(signed(SubmitRequest { submission: Some(submission("0123456789012345678901234567890123456789012345678901234567890123456789")) })).await.unwrap(); } })
        }).collect();
        for t in tasks {
            t.await.unwrap();
        }
        println!(
            "{callers} callers: {:.0}/s, gateway {:.1} us each",
            n as f64 / t.elapsed().as_secs_f64(),
            (cpu_us(child.id()) - before) / n as f64
        );
    }
    let before = cpu_us(child.id());
    let t = std::time::Instant::now();
    let tasks: Vec<_> = (0..4usize).map(|i| {
        let mut c = connections[i % 2].clone();
        tokio::spawn(async move { for _ in 0..400 { c.submit_batch(signed(SubmitBatchRequest { submissions: vec![submission("0123456789012345678901234567890123456789012345678901234567890123456789"); 500] })).await.unwrap(); } })
    }).collect();
    for t in tasks {
        t.await.unwrap();
    }
    println!(
        "batch: {:.0}/s, gateway {:.2} us an item",
        800_000.0 / t.elapsed().as_secs_f64(),
        (cpu_us(child.id()) - before) / 800_000.0
    );
    child.kill().unwrap();
}
