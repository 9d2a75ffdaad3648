//! One execution, one story: its trace, its log lines, its correlation id.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cluster::{ExtraEnv, Service};
use e2e::{Rig, retry_policy, submission};
use proto::v1::execution_service_client::ExecutionServiceClient;
use proto::v1::{Execution, Submission, SubmitRequest};
use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::Request;
use tonic::transport::Endpoint;
use watchwork::trace_store::{Span, Trace, TraceStore};

const PATIENCE: Duration = Duration::from_secs(10);
const CLIENTS_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENTS_SPAN: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_is_one_trace_from_the_call_to_every_attempt() -> Result<()> {
    let rig = start().await?;
    let id = rig
        .client
        .submit(Submission {
            retry_policy: Some(retry_policy(3, Duration::from_millis(50))),
            ..submission("fail", &json!({"times": 1}))
        })
        .await?;
    let execution = rig.client.wait_for(&id).await?;
    let trace = whole_trace(&rig, &execution).await?;
    names_services_and_parents_are_right(&trace, None)?;
    let attempts = spans(&trace, "task_execution");
    let failed: Vec<bool> = attempts.iter().map(|span| span.is_error()).collect();
    ensure!(failed == [true, false], "{attempts:?}");
    let worker = execution.attempts[0].worker_id.clone();
    ensure!(attempts[0].tag("worker_id") == Some(worker), "{attempts:?}");

    for service in ["api-gateway", "scheduler", "worker"] {
        let lines = log_lines(&rig, service, &execution.trace_id).await?;
        let about_it = |line: &&Value| line["context"]["execution_id"] == id.as_str();
        if service != "api-gateway" {
            ensure!(
                lines.iter().any(|line| about_it(&line)),
                "{service}: {lines:?}"
            );
        }
        let foreign = lines.iter().find(|line| line["service"] != service);
        ensure!(foreign.is_none(), "{foreign:?}");
    }
    rig.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_trace_goes_on_and_reaches_the_handler_with_the_correlation_id() -> Result<()>
{
    let rig = start().await?;
    let mut command = submission("command", &json!({"argv": ["env"]}));
    command.correlation_id = "order-7".to_owned();
    let execution = rig
        .client
        .wait_for(&submit_with_traceparent(&rig, command).await?)
        .await?;
    ensure!(
        execution.trace_id == CLIENTS_TRACE && execution.trace_kept,
        "{execution:?}"
    );
    let trace = whole_trace(&rig, &execution).await?;
    names_services_and_parents_are_right(&trace, Some(CLIENTS_SPAN))?;

    let output = String::from_utf8(execution.output.to_vec())?;
    let environment: HashMap<&str, &str> = output
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    ensure!(
        environment.get("CORRELATION_ID") == Some(&"order-7"),
        "{output}"
    );
    let attempt = spans(&trace, "task_execution");
    let [attempt] = attempt[..] else {
        return Err(anyhow!("one attempt, but {attempt:?}"));
    };
    let traceparent = format!("00-{CLIENTS_TRACE}-{}-01", attempt.span_id);
    ensure!(
        environment.get("TRACEPARENT") == Some(&traceparent.as_str()),
        "{output}"
    );
    rig.stop().await
}

/// With a trace receiver, and a gateway that logs every call.
async fn start() -> Result<Rig> {
    Rig::start(|options| {
        options.receiver = true;
        options.env.push(ExtraEnv {
            service: Service::ApiGateway,
            name: "RUST_LOG".to_owned(),
            value: "info,api_gateway=debug".to_owned(),
        });
    })
    .await
}

async fn submit_with_traceparent(rig: &Rig, submission: Submission) -> Result<String> {
    let address = rig.cluster.gateway_url().context("a gateway")?;
    let channel = Endpoint::from_shared(address)?.connect().await?;
    let mut client = ExecutionServiceClient::new(channel);
    let mut request = Request::new(SubmitRequest {
        submission: Some(submission),
    });
    let headers = request.metadata_mut();
    headers.insert(
        "authorization",
        format!("Bearer {}", rig.cluster.key()).parse()?,
    );
    headers.insert(
        "traceparent",
        format!("00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01").parse()?,
    );
    Ok(client.submit(request).await?.into_inner().execution_id)
}

async fn whole_trace(rig: &Rig, execution: &Execution) -> Result<Trace> {
    ensure!(execution.trace_kept, "{execution:?}");
    let url = rig.cluster.traces_url().context("a receiver")?;
    let store = TraceStore::new(&url).map_err(|why| anyhow!(why))?;
    let attempts = execution.attempts.len();
    let trace = store
        .wait_for(&execution.trace_id, attempts, PATIENCE)
        .await;
    let trace = trace.map_err(|why| anyhow!(why))?.context("no trace")?;
    ensure!(trace.is_whole(attempts), "{trace:?}");
    Ok(trace)
}

fn names_services_and_parents_are_right(trace: &Trace, root: Option<&str>) -> Result<()> {
    let service = |span: &Span| trace.processes[&span.process_id].service_name.clone();
    for (name, made_by, below) in [
        ("api_request", "api-gateway", None),
        ("schedule_job", "scheduler", Some("api_request")),
        ("queue_enqueue", "scheduler", Some("schedule_job")),
        ("task_execution", "worker", Some("queue_enqueue")),
    ] {
        let found = spans(trace, name);
        ensure!(!found.is_empty(), "there is no {name} in {trace:?}");
        for span in found {
            ensure!(service(span) == made_by, "{name} is by {}", service(span));
            let parent = match below {
                None => root.map(str::to_owned),
                Some(below) => Some(spans(trace, below)[0].span_id.clone()),
            };
            ensure!(
                span.parent_id() == parent.as_deref(),
                "{name} is below {:?}",
                span.parent_id()
            );
        }
    }
    ensure!(spans(trace, "api_request").len() == 1, "{trace:?}");
    let services: BTreeSet<String> = trace.spans.iter().map(service).collect();
    ensure!(services.len() == 3, "{services:?}");
    Ok(())
}

/// The spans of a name, in the order of their begin.
fn spans<'a>(trace: &'a Trace, name: &str) -> Vec<&'a Span> {
    let mut spans: Vec<&Span> = trace
        .spans
        .iter()
        .filter(|span| span.operation_name == name)
        .collect();
    spans.sort_by_key(|span| span.start_time);
    spans.dedup_by_key(|span| span.span_id.clone());
    spans
}

/// The lines with this trace's id of all processes of a service; at least one.
async fn log_lines(rig: &Rig, service: &str, trace_id: &str) -> Result<Vec<Value>> {
    let begin = Instant::now();
    loop {
        let mut lines = Vec::new();
        for member in rig.cluster.members() {
            if member.service().as_str() == service {
                let log = fs::read_to_string(member.log())?;
                let parsed = log
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok());
                lines.extend(parsed.filter(|line: &Value| line["trace_id"] == trace_id));
            }
        }
        if !lines.is_empty() {
            return Ok(lines);
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "{service} logged nothing of trace {trace_id}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}
