//! Who submits: a few connections to the gateway, shared by many callers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::Cluster;
use proto::v1::execution_service_client::ExecutionServiceClient;
use proto::v1::submit_verdict::Verdict;
use proto::v1::{Submission, SubmitBatchRequest, SubmitRequest};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::bed::{QUEUES, TENANTS, queue_name, tenant_name};

/// How many submissions a batch has.
pub(crate) const BATCH: u64 = 500;
const CONNECTIONS: usize = 4;
/// What is turned away because of too much at once is sent again after it.
const PAUSE: Duration = Duration::from_millis(2);

/// All callers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Callers {
    connections: Vec<ExecutionServiceClient<Channel>>,
    keys: Arc<Vec<MetadataValue<Ascii>>>,
    turn: Arc<AtomicU64>,
    turned_away: Arc<AtomicU64>,
}

impl Callers {
    pub(crate) fn new(cluster: &Cluster) -> Result<Self> {
        let url = cluster
            .gateway_url()
            .context("the cluster has no gateway")?;
        let connect = || -> Result<_> {
            let endpoint = Endpoint::from_shared(url.clone())?.tcp_nodelay(true);
            Ok(ExecutionServiceClient::new(endpoint.connect_lazy()))
        };
        let key = |tenant: u64| -> Result<_> {
            let key = cluster
                .key_of(&tenant_name(tenant))
                .context("a tenant has no key")?;
            Ok(format!("Bearer {key}").parse()?)
        };
        Ok(Self {
            connections: (0..CONNECTIONS).map(|_| connect()).collect::<Result<_>>()?,
            keys: Arc::new((0..TENANTS).map(key).collect::<Result<_>>()?),
            turn: Arc::default(),
            turned_away: Arc::default(),
        })
    }

    /// How many calls were turned away so far and made again.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Submits a batch for the tenant whose turn it is.
    pub(crate) async fn submit_batch(&self, caller: usize) -> Result<()> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let submissions: Vec<_> = (0..BATCH).map(|place| submission(place, "noop")).collect();
        loop {
            let request = SubmitBatchRequest {
                submissions: submissions.clone(),
            };
            let answer = self
                .connection(caller)
                .submit_batch(self.request(turn, request))
                .await;
            let Some(answer) = self.or_again(answer).await? else {
                continue;
            };
            let verdicts = answer.into_inner().verdicts;
            let accepted = |verdict: &&proto::v1::SubmitVerdict| {
                matches!(verdict.verdict, Some(Verdict::ExecutionId(_)))
            };
            let count = verdicts.iter().filter(accepted).count();
            ensure!(
                count == submissions.len(),
                "of a batch of {BATCH} only {count} were accepted: {:?}",
                verdicts.iter().find(|verdict| !accepted(verdict))
            );
            return Ok(());
        }
    }

    /// Submits one for the tenant whose turn it is.
    pub(crate) async fn submit(&self, caller: usize, submission: Submission) -> Result<()> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        loop {
            let request = SubmitRequest {
                submission: Some(submission.clone()),
            };
            let answer = self
                .connection(caller)
                .submit(self.request(turn, request))
                .await;
            if self.or_again(answer).await?.is_some() {
                return Ok(());
            }
        }
    }

    fn connection(&self, caller: usize) -> ExecutionServiceClient<Channel> {
        self.connections[caller % CONNECTIONS].clone()
    }

    fn request<T>(&self, turn: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let key = &self.keys[usize::try_from(turn % TENANTS).unwrap_or(0)];
        request.metadata_mut().insert("authorization", key.clone());
        request
    }

    /// The answer; none if the call is to be made again.
    async fn or_again<T>(&self, answer: Result<T, Status>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) => {
                self.turned_away.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
                Ok(None)
            }
            Err(status) => Err(status).context("a submission failed"),
        }
    }
}

/// A submission of the fixed profile: one of the tenant's queues, one of four priorities, about 100
/// bytes, three headers.
pub(crate) fn submission(place: u64, job_type: &str) -> Submission {
    const PAYLOAD: &[u8] = br#"{"user":123456,"email":"someone@example.com","template":"welcome","language":"en","attempt":1,"n":1}"#;
    const HEADERS: [(&str, &str); 3] = [
        ("content-language", "en"),
        ("x-origin", "billing"),
        ("x-request-id", "0b8f7c52-5f0e-4a63-9d0f"),
    ];
    let priority = i32::try_from(1 + place / QUEUES % 4).unwrap_or(0);
    let headers = HEADERS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Submission {
        job_type: job_type.to_owned(),
        queue: queue_name(place % QUEUES),
        priority,
        payload: PAYLOAD.into(),
        content_type: "application/json".to_owned(),
        headers: HashMap::from(headers),
        ..Submission::default()
    }
}
