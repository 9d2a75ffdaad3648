use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use domain::limits::{self, LimitError};
use http::Uri;
use service::Process;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::{Ascii, MetadataValue};

use crate::attempt_span::AttemptSpans;
use crate::handler::Handler;
use crate::journal::Journal;
use crate::link::{self, Profile, Surroundings};
use crate::metrics::{Labels, Metrics};
use crate::notice::Notifier;
use crate::registry::Registry;
use crate::runner::Runner;

/// Runs handlers for the schedulers that it is told of, until the process shuts down.
///
/// ```no_run
/// # use worker::{Noop, Worker};
/// # async fn example(process: service::Process) -> Result<(), Box<dyn std::error::Error>> {
/// Worker::builder()
///     .schedulers(["http://scheduler:7070"])
///     .key("wk_0123456789abcdef_…")
///     .handler("noop", Noop)
///     .slots(100)
///     .build()?
///     .run(&process)
///     .await?;
/// # Ok(()) }
/// ```
pub struct Worker {
    setting: Setting,
    authorization: MetadataValue<Ascii>,
}

/// What a [`Worker`] is made of.
#[must_use]
pub struct WorkerBuilder {
    setting: Setting,
    key: String,
    /// Types that were given two handlers.
    doubled: Vec<String>,
}

struct Setting {
    registry: Registry,
    seeds: Vec<String>,
    worker_id: Option<String>,
    pool: String,
    slots: u32,
    queues: Vec<String>,
    cancel_grace: Duration,
}

/// How long a handler that listens may go on when its execution is cancelled, if not said.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Why there can't be such a worker.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// A name or number is not allowed.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// There is nothing that it could run.
    #[error("no handler was given: a worker needs at least one job type")]
    NoHandler,
    /// One type has two handlers.
    #[error("the type {0:?} was given two handlers")]
    TwoHandlers(String),
    /// There is nobody to work for.
    #[error("no scheduler was given: name at least one, such as http://scheduler:7070")]
    NoScheduler,
    /// A scheduler's address is none.
    #[error("{0:?} is no address of a scheduler, such as http://scheduler:7070")]
    Address(String),
    /// The key can't be sent.
    #[error("the key is no API key: expected wk_<16 hex digits>_<secret>")]
    Key,
}

/// Why a worker ended otherwise than by a shutdown.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum RunError {
    /// Its metrics can't be registered; a process can hold one worker.
    #[error("can't register the worker's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The worker's name is not allowed.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The link's thread could not start.
    #[error("can't start the thread of the link to the schedulers: {0}")]
    Thread(#[from] std::io::Error),
    /// The link's thread panicked: a defect. What was running is lost to the leases.
    #[error("the link to the schedulers broke down by a defect; its panic is in the log")]
    LinkPanicked,
}

impl Worker {
    /// Begins to describe a worker.
    pub fn builder() -> WorkerBuilder {
        let setting = Setting {
            registry: Registry::default(),
            seeds: Vec::new(),
            worker_id: None,
            pool: "default".to_owned(),
            slots: default_slots(),
            queues: Vec::new(),
            cancel_grace: CANCEL_GRACE,
        };
        WorkerBuilder {
            setting,
            key: String::new(),
            doubled: Vec::new(),
        }
    }

    /// Works until `process.shutdown`, then drains within its grace: takes nothing new, lets what
    /// runs go on for all but the last two seconds, hands back the rest, and leaves when every
    /// result is settled. Handlers run on the runtime that this is called on; the link to the
    /// schedulers has a thread of its own.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self, process: &Process) -> Result<(), RunError> {
        let worker_id = self.setting.worker_id.clone();
        let worker_id = worker_id.unwrap_or_else(|| process.instance_id.clone());
        limits::check_name("worker_id", &worker_id)?;

        let (ends, ended) = mpsc::unbounded_channel();
        let (notices, noticed) = mpsc::unbounded_channel();
        let profile = self.profile(worker_id, process);
        let runner = Arc::new(self.runner(&profile, process, ends)?);
        let notifier = Notifier {
            worker_id: profile.worker_id.clone(),
            pool: profile.pool.clone(),
            slots: profile.slots,
            started: Instant::now(),
        };
        // Dropping this future ends the link too.
        let shutdown = process.shutdown.child_token();
        let _end = shutdown.clone().drop_guard();
        let readiness = process.readiness.clone();
        let around = Surroundings {
            runner: Arc::clone(&runner),
            readiness,
            notices,
            shutdown,
        };

        let (done, left) = oneshot::channel();
        thread::Builder::new()
            .name("worker-link".to_owned())
            .spawn(move || {
                // Nobody waits any more if the worker was dropped.
                let _ = done.send(link::run(profile, around, ended));
            })?;
        // Ends with the link, which holds the only sender.
        notifier.log_all(&runner.journal, noticed).await;
        Ok(left.await.map_err(|_| RunError::LinkPanicked)??)
    }

    fn profile(&self, worker_id: String, process: &Process) -> Profile {
        let setting = &self.setting;
        Profile {
            worker_id,
            pool: setting.pool.clone(),
            slots: setting.slots,
            queues: setting.queues.clone(),
            job_types: setting.registry.job_types(),
            incarnation: link::incarnation(),
            seeds: setting.seeds.clone(),
            authorization: self.authorization.clone(),
            shutdown_grace: process.shutdown_grace,
        }
    }

    fn runner(
        self,
        profile: &Profile,
        process: &Process,
        ends: mpsc::UnboundedSender<crate::outcome::Report>,
    ) -> Result<Runner, RunError> {
        let labels = Labels {
            worker_id: &profile.worker_id,
            pool: &profile.pool,
        };
        let metrics = Metrics::register(
            &process.registry,
            &labels,
            &profile.job_types,
            profile.slots,
        )?;
        Ok(Runner {
            runtime: Handle::current(),
            registry: self.setting.registry,
            journal: Journal {
                worker_id: profile.worker_id.clone(),
                suppressed: metrics.lines_suppressed.clone(),
            },
            metrics,
            cancel_grace: self.setting.cancel_grace,
            spans: AttemptSpans {
                sink: process.spans.clone(),
                worker_id: profile.worker_id.clone(),
                pool: profile.pool.clone(),
            },
            ends,
        })
    }
}

impl WorkerBuilder {
    /// Adds the handler of a job type.
    pub fn handler(mut self, job_type: impl Into<String>, handler: impl Handler) -> Self {
        let job_type = job_type.into();
        if !self.setting.registry.add(job_type.clone(), handler) {
            self.doubled.push(job_type);
        }
        self
    }

    /// Where to find a first scheduler; it tells of the others. A host name with several addresses
    /// counts as several.
    pub fn schedulers<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.setting
            .seeds
            .extend(addresses.into_iter().map(Into::into));
        self
    }

    /// The API key, of scope `worker`.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Its stable name; by default the process' instance id.
    pub fn worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.setting.worker_id = Some(worker_id.into());
        self
    }

    /// The pool that it belongs to; `default` if not said.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.setting.pool = pool.into();
        self
    }

    /// How many attempts it runs at a time: 1 to 100 000, two for each core if not said.
    pub fn slots(mut self, slots: u32) -> Self {
        self.setting.slots = slots;
        self
    }

    /// The queues it serves; all if none is named.
    pub fn queues<S: Into<String>>(mut self, queues: impl IntoIterator<Item = S>) -> Self {
        self.setting
            .queues
            .extend(queues.into_iter().map(Into::into));
        self
    }

    /// How long a handler that listens (see [`Context::cancellation`](crate::Context::cancellation))
    /// may go on when its execution is cancelled, before it is dropped; 10 s if not said.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.setting.cancel_grace = grace;
        self
    }

    /// Checks all of it.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self) -> Result<Worker, BuildError> {
        let setting = self.setting;
        check_types(&setting.registry.job_types(), self.doubled)?;
        limits::check_name("pool", &setting.pool)?;
        for queue in &setting.queues {
            limits::check_name("queues", queue)?;
        }
        if let Some(worker_id) = &setting.worker_id {
            limits::check_name("worker_id", worker_id)?;
        }
        if !(1..=limits::MAX_SLOTS).contains(&setting.slots) {
            let message = format!("{} must be 1 to {}", setting.slots, limits::MAX_SLOTS);
            return Err(LimitError::new("slots", message).into());
        }
        check_seeds(&setting.seeds)?;
        let authorization = authorization(&self.key)?;
        Ok(Worker {
            setting,
            authorization,
        })
    }
}

fn check_types(types: &[String], mut doubled: Vec<String>) -> Result<(), BuildError> {
    if let Some(job_type) = doubled.pop() {
        return Err(BuildError::TwoHandlers(job_type));
    }
    if types.is_empty() {
        return Err(BuildError::NoHandler);
    }
    if types.len() > limits::MAX_WORKER_TYPES {
        let message = format!("{}; at most {}", types.len(), limits::MAX_WORKER_TYPES);
        return Err(LimitError::new("job_types", message).into());
    }
    for job_type in types {
        limits::check_type_name("job_type", job_type)?;
    }
    Ok(())
}

fn check_seeds(seeds: &[String]) -> Result<(), BuildError> {
    if seeds.is_empty() {
        return Err(BuildError::NoScheduler);
    }
    let is_address = |seed: &&String| {
        let uri = seed.parse::<Uri>().ok();
        uri.is_some_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some())
    };
    match seeds.iter().find(|seed| !is_address(seed)) {
        Some(other) => Err(BuildError::Address(other.clone())),
        None => Ok(()),
    }
}

/// The key as calls carry it, kept out of debug output.
fn authorization(key: &str) -> Result<MetadataValue<Ascii>, BuildError> {
    if !key.starts_with("wk_") {
        return Err(BuildError::Key);
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {key}")
        .parse()
        .map_err(|_| BuildError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

fn default_slots() -> u32 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(2 * cores).unwrap_or(limits::MAX_SLOTS)
}
