use std::path::PathBuf;

use clap::{ArgAction, Parser};
use service::{Process, Secret, ServiceArgs};

use crate::builtin::{Command, Count, Fail, GroupGuard, Noop, Sleep};
use crate::worker::Worker;

/// Runs Watchwork's built-in job types: noop, sleep, count, fail, and, if allowed, command.
#[derive(Parser, Debug, Clone)]
#[command(name = "worker", version)]
pub struct WorkerArgs {
    /// Where to find a first scheduler, such as http://scheduler:7070; several with commas.
    #[arg(long, env = "SCHEDULERS", value_delimiter = ',', required = true)]
    pub schedulers: Vec<String>,

    /// API key of scope worker.
    #[arg(long, env = "WORKER_KEY", hide_env_values = true)]
    pub worker_key: Option<String>,

    /// File that holds the API key.
    #[arg(long, env = "WORKER_KEY_FILE")]
    pub worker_key_file: Option<PathBuf>,

    /// Stable name of this worker: `[a-z0-9][a-z0-9._-]{0,127}`. Default: the instance id.
    #[arg(long, env = "WORKER_ID")]
    pub worker_id: Option<String>,

    /// Pool that it belongs to.
    #[arg(long, env = "POOL", default_value = "default")]
    pub pool: String,

    /// How many attempts run at a time. Default: two for each core.
    #[arg(long, env = "SLOTS")]
    pub slots: Option<u32>,

    /// Queues that it serves, with commas. Default: all.
    #[arg(long, env = "QUEUES", value_delimiter = ',')]
    pub queues: Vec<String>,

    /// Whether jobs of type command may run programs on this machine.
    #[arg(
        long, env = "ALLOW_COMMAND", action = ArgAction::Set,
        num_args = 0..=1, default_value_t = false, default_missing_value = "true"
    )]
    pub allow_command: bool,

    /// What every process takes.
    #[command(flatten)]
    pub service: ServiceArgs,
}

impl WorkerArgs {
    /// Works until the process shuts down.
    ///
    /// # Errors
    /// An argument is wrong (the message names it), or the worker broke down.
    pub async fn work(self, process: Process) -> anyhow::Result<()> {
        let worker = self.worker()?;
        tracing::info!(event = "listening", admin_address = %process.admin_addr, "listening");
        Ok(worker.run(&process).await?)
    }

    fn worker(self) -> anyhow::Result<Worker> {
        let key = Secret::resolve("WORKER_KEY", self.worker_key, self.worker_key_file)?;
        let given = |text: &String| !text.is_empty();
        anyhow::ensure!(
            self.queues.len() < 2 || self.queues.iter().all(given),
            "QUEUES: a name in the list is empty; leave all of it out to serve all queues"
        );
        let mut builder = Worker::builder()
            .schedulers(self.schedulers.into_iter().filter(given))
            .key(key)
            .pool(self.pool)
            .queues(self.queues.into_iter().filter(given))
            .handler("noop", Noop)
            .handler("sleep", Sleep)
            .handler("count", Count)
            .handler("fail", Fail);
        if let Some(worker_id) = self.worker_id.filter(given) {
            builder = builder.worker_id(worker_id);
        }
        if let Some(slots) = self.slots {
            builder = builder.slots(slots);
        }
        if self.allow_command {
            builder = builder.handler("command", Command::guarded(GroupGuard::start()?));
        }
        Ok(builder.build()?)
    }
}
