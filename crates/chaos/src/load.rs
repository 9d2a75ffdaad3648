//! The clients: they hand in work at a steady pace, each piece until it is acknowledged.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use domain::ExecutionId;
use futures::future::try_join_all;
use proto::v1::{RetryPolicy, Submission};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Code;
use watchwork::client::Client;

use crate::clock;
use crate::history::{ClientLine, Said};
use crate::journal::Journal;
use crate::witness::{JOB_TYPE, Work};

/// How often something is handed in.
const BEAT: Duration = Duration::from_millis(200);
/// At most so much of it in one call.
const BATCH: usize = 40;
/// How long a client tries.
const PATIENCE: Duration = Duration::from_secs(120);
/// One of so many acknowledged calls is made again, as a client does that isn't sure.
const ONCE_MORE: u32 = 20;

/// How much is handed in, and within which time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) executions: usize,
    pub(crate) within: Duration,
    pub(crate) seed: u64,
}

/// Clients of all gateways that write down what they do.
#[derive(Clone)]
pub(crate) struct Clients {
    gateways: Vec<Client>,
    journal: Arc<Journal>,
}

impl Clients {
    /// Clients with one key, whose log is at `path`.
    ///
    /// # Errors
    /// An address is none, or the log can't be opened.
    pub(crate) fn of(gateways: &[String], key: &str, path: &Path) -> Result<Self> {
        let client = |address: &String| Client::new(address, key).map_err(anyhow::Error::msg);
        Ok(Self {
            gateways: gateways.iter().map(client).collect::<Result<_>>()?,
            journal: Arc::new(Journal::open(path)?),
        })
    }

    /// Hands everything in, and returns when all of it is acknowledged.
    ///
    /// # Errors
    /// Something is refused for good, or for too long.
    pub(crate) async fn hand_in(&self, pace: Pace) -> Result<()> {
        let mut random = StdRng::seed_from_u64(pace.seed);
        let begin = Instant::now();
        let beats = (pace.within.as_millis() / BEAT.as_millis()).max(1) as usize;
        let mut calls = JoinSet::new();
        let mut made = 0;
        for beat in 0..beats {
            sleep_until(begin + BEAT * u32::try_from(beat)?).await;
            let until = pace.executions * (beat + 1) / beats;
            while made < until {
                let size = match random.random_bool(0.5) {
                    true => 1,
                    false => random.random_range(2..=BATCH),
                };
                let next = until.min(made + size);
                let batch: Vec<Submission> = (made..next)
                    .map(|number| piece(number, &mut random))
                    .collect();
                let caller = Caller {
                    clients: self.clone(),
                    gateway: random.random_range(0..self.gateways.len()),
                    once_more: random.random_ratio(1, ONCE_MORE),
                };
                calls.spawn(caller.call(batch));
                made = next;
            }
            while let Some(ended) = calls.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = calls.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Hands in some executions that take long, each by a call of its own, so that something is running
    /// when it matters.
    ///
    /// # Errors
    /// As for [`hand_in`](Self::hand_in).
    pub(crate) async fn hand_in_long(
        &self,
        name: &str,
        count: usize,
        lasts: Duration,
    ) -> Result<()> {
        let work = Work {
            ms: u64::try_from(lasts.as_millis())?,
            ..Work::default()
        };
        let calls = (0..count).map(|number| {
            let caller = Caller {
                clients: self.clone(),
                gateway: number % self.gateways.len(),
                once_more: false,
            };
            caller.call(vec![submission(format!("{name}-{number}"), &work)])
        });
        try_join_all(calls).await.map(|_| ())
    }

    fn note(&self, key: &str, said: Said) -> Result<()> {
        self.journal.write(&ClientLine {
            at: clock::now(),
            key: key.to_owned(),
            said,
        })
    }
}

/// What is handed in as number so and so: of ten, seven succeed at once, and the others fail, wait or
/// are put off at first. A call takes some six milliseconds in the mean, one of a hundred much longer; with what
/// is handed in for faults ([`Clients::hand_in_long`]) it is ten to twenty.
fn piece(number: usize, random: &mut StdRng) -> Submission {
    let ms = match random.random_ratio(1, 100) {
        true => random.random_range(100..=300),
        false => random.random_range(1..=7),
    };
    let mut work = Work {
        ms,
        ..Work::default()
    };
    let mut due_at = None;
    match random.random_range(0..100) {
        0..12 => work.failures = random.random_range(1..=2),
        12..14 => work.failures = u32::MAX,
        14..16 => (work.failures, work.permanent) = (u32::MAX, true),
        16..22 => {
            let wait = Duration::from_millis(random.random_range(500..4_000));
            due_at = Some((SystemTime::now() + wait).into());
        }
        22..25 => work.not_before = clock::now() + random.random_range(100_000..1_000_000),
        _ => {}
    }
    Submission {
        due_at,
        ..submission(format!("piece-{number}"), &work)
    }
}

fn submission(key: String, work: &Work) -> Submission {
    Submission {
        job_type: JOB_TYPE.to_owned(),
        payload: serde_json::to_vec(work).unwrap_or_default().into(),
        content_type: "application/json".to_owned(),
        retry_policy: Some(RetryPolicy {
            max_attempts: Some(4),
            initial_backoff: prost_types::Duration::try_from(Duration::from_millis(200)).ok(),
            ..RetryPolicy::default()
        }),
        idempotency_key: key.clone(),
        correlation_id: key,
        ..Submission::default()
    }
}

/// One call, made again until all of it is acknowledged.
struct Caller {
    clients: Clients,
    gateway: usize,
    once_more: bool,
}

impl Caller {
    async fn call(mut self, mut open: Vec<Submission>) -> Result<()> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(50);
        if self.once_more {
            // Whatever becomes of it: the next one must name the same executions.
            self.try_once(open.clone()).await?;
        }
        loop {
            open = self.try_once(open).await?;
            if open.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!(
                    "{} is not taken within {PATIENCE:?}",
                    open[0].idempotency_key
                );
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
            self.gateway = (self.gateway + 1) % self.clients.gateways.len();
        }
    }

    /// What is still open after one try.
    async fn try_once(&self, pieces: Vec<Submission>) -> Result<Vec<Submission>> {
        for piece in &pieces {
            self.clients.note(&piece.idempotency_key, Said::Asked)?;
        }
        let verdicts = self.verdicts(&pieces).await;
        let mut open = Vec::new();
        for (piece, verdict) in pieces.into_iter().zip(verdicts) {
            let said = match verdict {
                Ok(id) => {
                    let parsed: Option<ExecutionId> = id.parse().ok();
                    let execution = parsed.with_context(|| format!("{id:?} is no id"))?.into();
                    Said::Told { id, execution }
                }
                Err((code, why)) if is_passing(code) => Said::Failed { why },
                Err((code, why)) => bail!("{} is refused: {code}: {why}", piece.idempotency_key),
            };
            let is_open = matches!(said, Said::Failed { .. });
            self.clients.note(&piece.idempotency_key, said)?;
            if is_open {
                open.push(piece);
            }
        }
        Ok(open)
    }

    /// One by a call of its own, several by one call.
    async fn verdicts(&self, pieces: &[Submission]) -> Vec<Result<String, (Code, String)>> {
        let client = &self.clients.gateways[self.gateway];
        if let [piece] = pieces {
            let answer = client.submit(piece.clone()).await;
            return vec![answer.map_err(|why| (why.code(), why.message().to_owned()))];
        }
        match client.submit_batch(pieces.to_vec()).await {
            Ok(verdicts) => verdicts
                .into_iter()
                .map(|verdict| verdict.map_err(|why| (Code::from(why.code), why.message)))
                .collect(),
            Err(why) => vec![Err((why.code(), why.message().to_owned())); pieces.len()],
        }
    }
}

/// Whether the same may be taken a little later.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
    )
}
