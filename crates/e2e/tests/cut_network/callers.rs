//! Callers that hand in work without a pause and remember what they were told of each piece.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use domain::ExecutionId;
use e2e::{Rig, retry_policy, submission};
use proto::v1::Submission;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use watchwork::client::Client;

const CALLERS: usize = 12;
const BATCH: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What callers were told, by the pieces' correlation ids.
#[derive(Default)]
pub(crate) struct Told {
    /// Acknowledged, at the first try or (with a key) at a later one.
    pub(crate) taken: BTreeMap<String, ExecutionId>,
    /// Of those: with which key.
    pub(crate) keyed: BTreeMap<String, Submission>,
    /// Without a key, and said not to have been taken.
    pub(crate) refused: Vec<String>,
    /// Without a key, and nobody knows.
    pub(crate) in_doubt: Vec<String>,
    /// How many tries with a key failed.
    pub(crate) tried_again: usize,
}

/// Callers at work.
pub(crate) struct Callers {
    calling: JoinSet<Result<Told>>,
    stop: watch::Sender<bool>,
}

impl Callers {
    pub(crate) fn start(rig: &Rig) -> Self {
        let stop = watch::Sender::new(false);
        let mut calling = JoinSet::new();
        for number in 0..CALLERS {
            let caller = Caller {
                number,
                client: rig.client.clone(),
                told: Told::default(),
            };
            calling.spawn(caller.call_until(stop.subscribe()));
        }
        Self { calling, stop }
    }

    /// Lets them finish what they are about.
    pub(crate) async fn finish(mut self) -> Result<Told> {
        self.stop.send_replace(true);
        let mut all = Told::default();
        while let Some(told) = self.calling.join_next().await {
            let told = told??;
            all.taken.extend(told.taken);
            all.keyed.extend(told.keyed);
            all.refused.extend(told.refused);
            all.in_doubt.extend(told.in_doubt);
            all.tried_again += told.tried_again;
        }
        Ok(all)
    }
}

struct Caller {
    number: usize,
    client: Client,
    told: Told,
}

impl Caller {
    async fn call_until(mut self, stop: watch::Receiver<bool>) -> Result<Told> {
        for round in 0.. {
            if *stop.borrow() {
                break;
            }
            let count = if round % 4 < 2 { 1 } else { BATCH };
            let keyed = round % 2 == 1;
            let pieces: Vec<Submission> = (0..count)
                .map(|place| self.piece((round, place), keyed))
                .collect();
            if keyed {
                self.hand_in_until_taken(pieces).await?;
            } else {
                self.hand_in_once(pieces).await?;
            }
        }
        Ok(self.told)
    }

    fn piece(&self, (round, place): (usize, usize), keyed: bool) -> Submission {
        let name = format!("{}-{round}-{place}", self.number);
        let work = match (round + place) % 8 {
            0 => Submission {
                retry_policy: Some(retry_policy(5, Duration::from_millis(100))),
                ..submission("fail", &json!({"times": 1}))
            },
            _ => submission("noop", &json!({})),
        };
        Submission {
            idempotency_key: if keyed { name.clone() } else { String::new() },
            correlation_id: name,
            ..work
        }
    }

    async fn hand_in_once(&mut self, pieces: Vec<Submission>) -> Result<()> {
        let names: Vec<String> = pieces.iter().map(|it| it.correlation_id.clone()).collect();
        for (name, verdict) in names.into_iter().zip(self.verdicts(pieces).await) {
            match verdict {
                Ok(id) => drop(self.told.taken.insert(name, parsed(&id)?)),
                Err(why) if why.contains(" was taken") || why.contains("was not taken") => {
                    self.told.refused.push(name);
                }
                Err(_) => self.told.in_doubt.push(name),
            }
        }
        Ok(())
    }

    async fn hand_in_until_taken(&mut self, mut pieces: Vec<Submission>) -> Result<()> {
        while !pieces.is_empty() {
            let verdicts = self.verdicts(pieces.clone()).await;
            let mut open = Vec::new();
            for (piece, verdict) in pieces.into_iter().zip(verdicts) {
                let Ok(id) = verdict else {
                    open.push(piece);
                    continue;
                };
                let name = piece.correlation_id.clone();
                self.told.taken.insert(name.clone(), parsed(&id)?);
                self.told.keyed.insert(name, piece);
            }
            pieces = open;
            self.told.tried_again += pieces.len();
            if !pieces.is_empty() {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// The ids of those that were taken, or what was said; one by a call of its own, several by one call.
    async fn verdicts(&self, mut pieces: Vec<Submission>) -> Vec<Result<String, String>> {
        let asked = pieces.len();
        if asked == 1 {
            let piece = pieces.pop().unwrap_or_default();
            let answer = self.client.submit(piece).await;
            return vec![answer.map_err(|status| status.message().to_owned())];
        }
        match self.client.submit_batch(pieces).await {
            Ok(verdicts) => verdicts
                .into_iter()
                .map(|verdict| verdict.map_err(|refusal| refusal.message))
                .collect(),
            Err(status) => vec![Err(status.message().to_owned()); asked],
        }
    }
}

pub(crate) fn parsed(id: &str) -> Result<ExecutionId> {
    id.parse().ok().with_context(|| format!("{id:?} is no id"))
}
