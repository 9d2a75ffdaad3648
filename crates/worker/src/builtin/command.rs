use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, pipe};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::limits::MAX_ERROR_BYTES;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::command_output::CommandOutput;
use super::group_guard::GroupGuard;
use super::process_group::ProcessGroup;
use crate::context::Context;
use crate::handler::{Handler, HandlerError, Output};
use crate::payload::Json;

/// How long a program may take to end when it is asked to.
const TERMINATED_WITHIN: Duration = Duration::from_secs(2);
/// What programs inherit of the worker's environment; above all not its key.
const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Runs a program; no shell is involved. It and all that it starts form a process group, which is
/// killed whole, by SIGTERM and two seconds later SIGKILL, when the attempt is out of time, the
/// execution is cancelled or the worker shuts down, at once when the attempt has lost its right to run, and at the latest when
/// the program has ended.
///
/// The program finds in its environment: `PATH`, `HOME`, `USER`, `LANG`, `LC_ALL`, `TZ` and
/// `TMPDIR` as the worker has them, `WATCHWORK_EXECUTION_ID`, `WATCHWORK_ATTEMPT`,
/// `WATCHWORK_IDEMPOTENCY_KEY`, `TRACEPARENT`, `TRACESTATE`, `CORRELATION_ID`, and what the payload
/// names. What it writes to standard output and standard error is its output. Exit code 0 is
/// success; others are errors of class `exit_<code>`, death by a signal `signal_<number>`; a
/// program that can't be found or executed is a permanent error.
pub struct Command {
    guard: Option<GroupGuard>,
}

/// What [`Command`] takes.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub struct CommandPayload {
    /// The program, by path or by name on the `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// The directory to run in; the worker's own if not said.
    pub cwd: Option<PathBuf>,
    /// Variables to add to its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it reads from standard input; nothing if not said.
    pub stdin: Option<String>,
}

/// A program under way.
struct Running {
    child: Child,
    group: ProcessGroup,
    output: CommandOutput,
    _stdin: Option<AbortOnDropHandle<()>>,
}

impl Command {
    /// Programs outlive a worker that is killed with SIGKILL; see [`Command::guarded`].
    #[must_use]
    pub fn unguarded() -> Self {
        Self { guard: None }
    }

    /// Programs are killed even if the worker has no time to do it.
    #[must_use]
    pub fn guarded(guard: GroupGuard) -> Self {
        Self { guard: Some(guard) }
    }

    async fn finish(
        &self,
        mut running: Running,
        context: &Context,
    ) -> Result<Output, HandlerError> {
        let cancellation = context.cancellation();
        let ended = tokio::select! {
            // What has ended by itself was not told to.
            biased;
            ended = running.attend() => ended?,
            () = cancellation.cancelled() => {
                running.group.terminate();
                let _ = timeout(TERMINATED_WITHIN, running.attend()).await;
                return Err(HandlerError::new("cancelled", "the program was told to end"));
            }
        };
        // What it left running would hold the pipe, and its slot.
        running.group.kill();
        answer(ended, running.output.finish().await)
    }
}

#[async_trait]
impl Handler for Command {
    type Payload = Json<CommandPayload>;

    async fn run(
        &self,
        Json(payload): Self::Payload,
        context: Context,
    ) -> Result<Output, HandlerError> {
        let running = Running::start(&payload, &context)?;
        let leader = running.child.id();
        let _guarded = self
            .guard
            .as_ref()
            .zip(leader)
            .map(|(guard, id)| guard.guard(id));
        self.finish(running, &context).await
    }
}

impl Running {
    fn start(payload: &CommandPayload, context: &Context) -> Result<Self, HandlerError> {
        let Some((program, arguments)) = payload.argv.split_first() else {
            return Err(HandlerError::new("payload", "argv is empty").permanent());
        };
        let (read, write) = pipe()?;
        let stdin = if payload.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment(context))
            .envs(&payload.env)
            .stdin(stdin)
            // One pipe for both keeps their lines in order.
            .stdout(write.try_clone()?)
            .stderr(write)
            .process_group(0)
            .kill_on_drop(true);
        if let Some(directory) = &payload.cwd {
            command.current_dir(directory);
        }
        let mut child = command
            .spawn()
            .map_err(|error| not_started(program, &error))?;
        // The worker's own copy of the pipe's writing end goes with it.
        drop(command);
        let group = child.id().and_then(ProcessGroup::led_by);
        let group = group.ok_or_else(|| HandlerError::new("spawn", "it has no process id"))?;
        let output = CommandOutput::new(Receiver::from_owned_fd(read.into())?);
        let _stdin = write_stdin(&mut child, payload.stdin.clone());
        Ok(Self {
            child,
            group,
            output,
            _stdin,
        })
    }

    /// Reads what it writes until it ends. May be dropped and called again.
    async fn attend(&mut self) -> io::Result<ExitStatus> {
        let Self { child, output, .. } = self;
        let mut reading = true;
        loop {
            tokio::select! {
                ended = child.wait() => return ended,
                read = output.read(), if reading => {
                    read?;
                    reading = false;
                }
            }
        }
    }
}

fn environment(context: &Context) -> Vec<(&'static str, String)> {
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some((*name, std::env::var(name).ok()?)));
    let mut environment: Vec<_> = inherited.collect();
    environment.push(("WATCHWORK_EXECUTION_ID", context.execution_id().to_string()));
    environment.push(("WATCHWORK_ATTEMPT", context.attempt().to_string()));
    environment.push(("WATCHWORK_IDEMPOTENCY_KEY", context.idempotency_key()));
    let headers = context.headers();
    for (name, header) in [
        ("TRACEPARENT", "traceparent"),
        ("TRACESTATE", "tracestate"),
        ("CORRELATION_ID", "X-Correlation-ID"),
    ] {
        environment.extend(headers.get(header).map(|value| (name, value.clone())));
    }
    environment
}

fn write_stdin(child: &mut Child, text: Option<String>) -> Option<AbortOnDropHandle<()>> {
    let (mut stdin, text) = (child.stdin.take()?, text?);
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        // A program need not read what it is given.
        let _ = stdin.write_all(text.as_bytes()).await;
    })))
}

fn not_started(program: &str, error: &io::Error) -> HandlerError {
    let message = format!("can't start {program:?}: {error}");
    match error.kind() {
        ErrorKind::NotFound => HandlerError::new("program_not_found", message).permanent(),
        ErrorKind::PermissionDenied => {
            HandlerError::new("program_not_executable", message).permanent()
        }
        _ => HandlerError::new("spawn", message),
    }
}

fn answer(ended: ExitStatus, output: Bytes) -> Result<Output, HandlerError> {
    if ended.success() {
        let content_type = match std::str::from_utf8(&output) {
            Ok(_) => "text/plain; charset=utf-8",
            Err(_) => "application/octet-stream",
        };
        return Ok(Output {
            body: output,
            content_type: Cow::Borrowed(content_type),
        });
    }
    let class = match (ended.code(), ended.signal()) {
        (Some(code), _) => format!("exit_{code}"),
        (None, Some(signal)) => format!("signal_{signal}"),
        (None, None) => "exit_unknown".to_owned(),
    };
    Err(HandlerError::new(
        class,
        format!("{ended}: {}", last_part(&output)),
    ))
}

/// The end of what it wrote, which most likely says why.
fn last_part(output: &[u8]) -> String {
    let begin = output.len().saturating_sub(MAX_ERROR_BYTES - 128);
    String::from_utf8_lossy(&output[begin..]).trim().to_owned()
}
