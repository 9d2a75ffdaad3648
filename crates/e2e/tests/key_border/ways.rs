//! All ways in which a submission comes to a lane: through gateways, which send a key to the lane that it
//! chooses, and straight to the owner of any lane, as a gateway sends it that sees other owners.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::Service;
use e2e::{Rig, submission};
use proto::internal::v1::scheduler_service_client::SchedulerServiceClient;
use proto::internal::v1::{ForwardedSubmission, SubmitRequest};
use proto::v1::Submission;
use proto::v1::submit_verdict::Verdict;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::Request;
use tonic::transport::Channel;
use watchwork::client::Client;

const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// What a submission with a key was told: the execution, and whether that was there before.
pub(crate) type Told = (String, bool);

#[derive(Clone)]
pub(crate) struct Ways {
    gateways: Vec<Client>,
    /// By lane: its owner.
    owners: Vec<SchedulerServiceClient<Channel>>,
    token: Arc<str>,
    tenant: u32,
    queue: u32,
}

pub(crate) fn keyed(key: &str) -> Submission {
    Submission {
        idempotency_key: key.to_owned(),
        ..submission("noop", &json!({"n": 1}))
    }
}

impl Ways {
    pub(crate) async fn into(rig: &Rig) -> Result<Self> {
        let client = |url: &String| Client::new(url, rig.cluster.key()).map_err(anyhow::Error::msg);
        let gateways = rig.cluster.urls(Service::ApiGateway);
        let gateways: Vec<Client> = gateways.iter().map(client).collect::<Result<_>>()?;
        ensure!(gateways.len() == 2, "two gateways");
        let pool = rig.ledger.pool();
        let holders: Vec<String> =
            sqlx::query_scalar("select holder from lane_lease order by lane")
                .fetch_all(pool)
                .await?;
        let mut owners = Vec::new();
        for holder in &holders {
            let address = rig
                .cluster
                .member(holder)?
                .address()
                .context("a scheduler")?;
            let channel = Channel::from_shared(format!("http://{address}"))?.connect_lazy();
            owners.push(SchedulerServiceClient::new(channel));
        }
        let (tenant, queue): (i32, i32) =
            sqlx::query_as("select tenant, number from queue where name = 'default'")
                .fetch_one(pool)
                .await?;
        Ok(Self {
            gateways,
            owners,
            token: rig.cluster.service_token().into(),
            tenant: u32::try_from(tenant)?,
            queue: u32::try_from(queue)?,
        })
    }

    /// So many submissions of one key at once, by all ways in turn.
    pub(crate) fn race(&self, key: &str, count: usize) -> Vec<JoinHandle<Result<Told>>> {
        let one = |way: usize| {
            let (ways, key) = (self.clone(), key.to_owned());
            tokio::spawn(async move { ways.submit_until_taken(way, &key).await })
        };
        (0..count).map(one).collect()
    }

    async fn submit_until_taken(&self, way: usize, key: &str) -> Result<Told> {
        let begin = Instant::now();
        loop {
            match self.submit(way, key).await {
                Ok(told) => return Ok(told),
                Err(why) if begin.elapsed() > PATIENCE => bail!("way {way}: {why}"),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn submit(&self, way: usize, key: &str) -> Result<Told, String> {
        let places = self.gateways.len() + self.owners.len();
        let way = way % places;
        if let Some(gateway) = self.gateways.get(way) {
            let answer = gateway.hand_in(keyed(key)).await;
            let answer = answer.map_err(|status| status.to_string())?;
            return Ok((answer.execution_id, answer.duplicate));
        }
        self.submit_to_owner(way - self.gateways.len(), key).await
    }

    async fn submit_to_owner(&self, lane: usize, key: &str) -> Result<Told, String> {
        let item = ForwardedSubmission {
            tenant: self.tenant,
            queue: self.queue,
            lane: u32::try_from(lane).map_err(|error| error.to_string())?,
            submission: Some(keyed(key)),
            origin: None,
        };
        let mut request = Request::new(SubmitRequest {
            submissions: vec![item],
            forwarded: true,
            hasty: false,
        });
        let token = format!("Bearer {}", self.token).parse();
        let token = token.map_err(|_| "the token is none".to_owned())?;
        request.metadata_mut().insert("authorization", token);
        let answer = self.owners[lane].clone().submit(request).await;
        let mut verdicts = answer
            .map_err(|status| status.to_string())?
            .into_inner()
            .verdicts;
        let verdict = verdicts.pop().unwrap_or_default();
        match verdict.verdict {
            Some(Verdict::ExecutionId(id)) => Ok((id, verdict.duplicate)),
            refused => Err(format!("{refused:?}")),
        }
    }
}
