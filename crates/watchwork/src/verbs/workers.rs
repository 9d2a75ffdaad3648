use std::time::{Duration, SystemTime};

use proto::v1::{Worker, WorkerState};
use serde::Serialize;
use serde_json::json;

use crate::args::DrainArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::text;

/// How often it is looked whether a worker has left.
const LOOK: Duration = Duration::from_millis(300);

const HEAD: [&str; 8] = [
    "WORKER", "POOL", "STATE", "RUNNING", "SLOTS", "HEARD", "VERSION", "QUEUES",
];

/// A worker for programs.
#[derive(Serialize)]
struct WorkerView<'a> {
    worker_id: &'a str,
    pool: &'a str,
    state: &'static str,
    running: u32,
    slots: u32,
    job_types: &'a [String],
    queues: &'a [String],
    version: &'a str,
    address: &'a str,
    heard_at: Option<String>,
}

impl<'a> From<&'a Worker> for WorkerView<'a> {
    fn from(worker: &'a Worker) -> Self {
        Self {
            worker_id: &worker.worker_id,
            pool: &worker.pool,
            state: state_name(worker.state()),
            running: worker.running,
            slots: worker.slots,
            job_types: &worker.job_types,
            queues: &worker.queues,
            version: &worker.version,
            address: &worker.address,
            heard_at: worker.heard_at.as_ref().and_then(text::timestamp),
        }
    }
}

/// Lists the workers, by name.
pub(crate) async fn list_workers(output: &Output, client: &Client) -> Result<(), Failure> {
    let workers = client.workers().await?;
    if output.is_json() {
        for worker in &workers {
            output.json(&WorkerView::from(worker))?;
        }
        return Ok(());
    }
    if workers.is_empty() {
        eprintln!("watchwork: there is none");
        return Ok(());
    }
    let now = SystemTime::now();
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(workers.iter().map(|worker| row(worker, now)));
    Ok(output.text(&text::table(&rows))?)
}

/// Has a worker leave, and waits for that if asked to.
pub(crate) async fn drain_worker(
    output: &Output,
    client: &Client,
    args: DrainArgs,
) -> Result<(), Failure> {
    let id = &args.worker_id;
    let running = client.drain_worker(id, args.grace).await?;
    let hint = match args.wait {
        true => "",
        false => "; `watchwork worker list` shows it until it has left",
    };
    say(
        output,
        id,
        ("draining", running),
        &format!("takes nothing new; {running} running at its last heartbeat{hint}"),
    )?;
    if !args.wait {
        return Ok(());
    }
    while client
        .workers()
        .await?
        .iter()
        .any(|worker| worker.worker_id == *id)
    {
        tokio::time::sleep(LOOK).await;
    }
    say(output, id, ("left", 0), "has left")
}

fn say(
    output: &Output,
    worker_id: &str,
    (state, running): (&str, u32),
    line: &str,
) -> Result<(), Failure> {
    let said = match output.is_json() {
        true => output.json(&json!({"worker_id": worker_id, "state": state, "running": running})),
        false => output.text(&format!("{worker_id}  {line}\n")),
    };
    Ok(said?)
}

fn row(worker: &Worker, now: SystemTime) -> Vec<String> {
    let heard = worker.heard_at.and_then(|at| SystemTime::try_from(at).ok());
    let heard = heard.map(|at| text::age(now.duration_since(at).unwrap_or_default()));
    let queues = match worker.queues.is_empty() {
        true => "all".to_owned(),
        false => worker.queues.join(","),
    };
    vec![
        worker.worker_id.clone(),
        worker.pool.clone(),
        state_name(worker.state()).to_owned(),
        worker.running.to_string(),
        worker.slots.to_string(),
        heard.map_or_else(|| "-".to_owned(), |age| format!("{age} ago")),
        worker.version.clone(),
        queues,
    ]
}

fn state_name(state: WorkerState) -> &'static str {
    text::short_name(state.as_str_name(), "WORKER_STATE_")
}
