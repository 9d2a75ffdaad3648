//! A client of the API, with one key.

use std::sync::Arc;
use std::time::Duration;

use proto::v1::execution_service_client::ExecutionServiceClient;
use proto::v1::fleet_service_client::FleetServiceClient;
use proto::v1::submit_verdict::Verdict;
use proto::v1::{
    CancelExecutionRequest, DiscardExecutionRequest, DrainWorkerRequest, Execution, ExecutionState,
    GetExecutionRequest, ListExecutionsRequest, ListExecutionsResponse, ListWorkersRequest,
    Refusal, RetryExecutionRequest, Submission, SubmitBatchRequest, SubmitRequest, SubmitResponse,
    WatchExecutionsRequest, WatchExecutionsResponse, Worker,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status, Streaming, TimeoutExpired};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// A gateway that went away without a word is noticed after the sum of the two.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// An execution with a thousand attempts, each with 8 KiB of error.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long a watch that was broken off is tried again, and how often.
const WATCH_PATIENCE: Duration = Duration::from_secs(30);
const WATCH_PAUSE: Duration = Duration::from_millis(300);

/// A client of the API. Cheap to clone; all clones share a connection, which is opened when it is first
/// used.
#[derive(Clone)]
pub struct Client {
    address: Arc<str>,
    executions: ExecutionServiceClient<Channel>,
    fleet: FleetServiceClient<Channel>,
    authorization: MetadataValue<Ascii>,
}

impl Client {
    /// A client of the API at `address` (`http://host:port`) with the key `wk_…`. Needs to be called
    /// on a tokio runtime.
    ///
    /// # Errors
    /// The address is none, or the key holds what no header may.
    pub fn new(address: &str, key: &str) -> Result<Self, String> {
        let illegal = || format!("{address:?} is no address: expected http://host:port");
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| illegal())?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
            return Err(illegal());
        }
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .connect_lazy();
        let fleet = FleetServiceClient::new(channel.clone());
        let executions = ExecutionServiceClient::new(channel);
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {key}")
            .parse()
            .map_err(|_| "the key holds characters that no key has".to_owned())?;
        authorization.set_sensitive(true);
        let executions = executions.max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            address: Arc::from(address),
            executions,
            fleet,
            authorization,
        })
    }

    /// Hands in one execution; its id comes back once it is stored.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn submit(&self, submission: Submission) -> Result<String, Status> {
        Ok(self.hand_in(submission).await?.execution_id)
    }

    /// Hands in one execution, and tells whether it was stored before, under its idempotency key.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn hand_in(&self, submission: Submission) -> Result<SubmitResponse, Status> {
        let request = self.request(SubmitRequest {
            submission: Some(submission),
        });
        let answer = self.executions.clone().submit(request).await;
        let answer = answer.map_err(|status| self.handed_in(status))?;
        Ok(answer.into_inner())
    }

    /// Hands in up to 1000 executions; for each, in order, its id or why it was refused.
    ///
    /// # Errors
    /// The API's answer, if it concerns all of them.
    pub async fn submit_batch(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Result<String, Refusal>>, Status> {
        let request = self.request(SubmitBatchRequest { submissions });
        let answer = self.executions.clone().submit_batch(request).await;
        let answer = answer.map_err(|status| self.handed_in(status))?;
        let verdicts = answer.into_inner().verdicts.into_iter();
        Ok(verdicts
            .map(|verdict| id_or_refusal(verdict.verdict))
            .collect())
    }

    /// One execution with its attempts.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn get(&self, id: &str) -> Result<Execution, Status> {
        let request = self.request(GetExecutionRequest {
            execution_id: id.to_owned(),
        });
        let answer = self.executions.clone().get_execution(request).await;
        let answer = answer.map_err(|status| self.named(status))?;
        answer
            .into_inner()
            .execution
            .ok_or_else(|| Status::internal("an answer without execution"))
    }

    /// A page of executions, the newest first.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn list(
        &self,
        list: ListExecutionsRequest,
    ) -> Result<ListExecutionsResponse, Status> {
        let answer = self
            .executions
            .clone()
            .list_executions(self.request(list))
            .await;
        let answer = answer.map_err(|status| self.named(status))?;
        Ok(answer.into_inner())
    }

    /// Cancels an execution. `CANCELLED`: it is over; `RUNNING`: its worker is told to stop. Cancelling
    /// again does no harm.
    ///
    /// # Errors
    /// The API's answer; `FAILED_PRECONDITION` if it came to another end before.
    pub async fn cancel(&self, id: &str) -> Result<ExecutionState, Status> {
        let request = self.request(CancelExecutionRequest {
            execution_id: id.to_owned(),
        });
        let answer = self.executions.clone().cancel_execution(request).await;
        let answer = answer.map_err(|status| self.named(status))?;
        Ok(answer.into_inner().state())
    }

    /// Has an execution run again that failed, is a dead letter or was cancelled. Doing so again before it is
    /// over does no harm.
    ///
    /// # Errors
    /// The API's answer; `FAILED_PRECONDITION` if it isn't over, or has succeeded.
    pub async fn retry(&self, id: &str) -> Result<ExecutionState, Status> {
        let request = self.request(RetryExecutionRequest {
            execution_id: id.to_owned(),
        });
        let answer = self.executions.clone().retry_execution(request).await;
        let answer = answer.map_err(|status| self.named(status))?;
        Ok(answer.into_inner().state())
    }

    /// Takes an execution out of the dead letters. Doing so again does no harm.
    ///
    /// # Errors
    /// The API's answer; `FAILED_PRECONDITION` if it is no dead letter.
    pub async fn discard(&self, id: &str) -> Result<ExecutionState, Status> {
        let request = self.request(DiscardExecutionRequest {
            execution_id: id.to_owned(),
        });
        let answer = self.executions.clone().discard_execution(request).await;
        let answer = answer.map_err(|status| self.named(status))?;
        Ok(answer.into_inner().state())
    }

    /// The workers that serve the key's tenant, by name. Needs a key with the scope `operate`.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn workers(&self) -> Result<Vec<Worker>, Status> {
        let request = self.request(ListWorkersRequest {});
        let answer = self.fleet.clone().list_workers(request).await;
        let answer = answer.map_err(|status| self.named(status))?;
        Ok(answer.into_inner().workers)
    }

    /// Has a worker leave, what runs there within `grace`, and gives how much that is. Doing so again shortens the
    /// grace at most.
    ///
    /// # Errors
    /// The API's answer; `NOT_FOUND` if no worker of this name is connected.
    pub async fn drain_worker(&self, id: &str, grace: Option<Duration>) -> Result<u32, Status> {
        let grace = grace.map(prost_types::Duration::try_from).transpose();
        let grace = grace.map_err(|_| Status::invalid_argument("the grace is too long"))?;
        let request = self.request(DrainWorkerRequest {
            worker_id: id.to_owned(),
            grace,
        });
        let answer = self.fleet.clone().drain_worker(request).await;
        let answer = answer.map_err(|status| self.named(status))?;
        Ok(answer.into_inner().running)
    }

    /// The changes of these executions, beginning with where they stand, until all are final.
    pub fn watch(&self, ids: Vec<String>) -> Watch {
        Watch {
            client: self.clone(),
            open: ids,
            changes: None,
            lost_for: Duration::ZERO,
        }
    }

    /// Waits until an execution is final, and gives it.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn wait_for(&self, id: &str) -> Result<Execution, Status> {
        let mut watch = self.watch(vec![id.to_owned()]);
        while watch.next().await?.is_some() {}
        self.get(id).await
    }

    /// An error of the connection, not of the API, says what could not be reached; so does one without a word,
    /// as servers give that don't know the API.
    fn named(&self, status: Status) -> Status {
        let (address, why) = (&self.address, status.message());
        match Lost::of(&status) {
            None if why.is_empty() => Status::new(
                status.code(),
                format!(
                    "{address} answers nothing but {:?}: is it a gateway's address?",
                    status.code()
                ),
            ),
            None => status,
            Some(Lost::NeverThere) => Status::unavailable(format!(
                "{address} can't be reached ({why}): does a gateway run there?"
            )),
            Some(Lost::OnTheWay) => {
                Status::unavailable(format!("{address} can't be heard any more ({why})"))
            }
            Some(Lost::InTime) => Status::deadline_exceeded(format!(
                "{address} gave no answer within {} s",
                CALL_TIMEOUT.as_secs()
            )),
        }
    }

    /// The same for what must not be done twice: it says whether it may have been.
    fn handed_in(&self, status: Status) -> Status {
        let lost = Lost::of(&status);
        let named = self.named(status);
        let fate = match lost {
            None => return named,
            Some(Lost::NeverThere) => "nothing was handed in",
            Some(Lost::OnTheWay | Lost::InTime) => {
                "the work may or may not have been taken; with an idempotency key it can be handed in \
                 again, and is taken once"
            }
        };
        Status::new(named.code(), format!("{}; {fate}", named.message()))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        request
    }
}

/// The changes of executions. A gateway that goes away is asked again for half a minute; the
/// states then begin anew from where they stand.
pub struct Watch {
    client: Client,
    open: Vec<String>,
    changes: Option<Streaming<WatchExecutionsResponse>>,
    lost_for: Duration,
}

impl Watch {
    /// The next change; `None` once all are final.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn next(&mut self) -> Result<Option<WatchExecutionsResponse>, Status> {
        while !self.open.is_empty() {
            match self.try_next().await {
                Ok(Some(change)) => {
                    self.lost_for = Duration::ZERO;
                    if is_final(change.state()) {
                        self.open
                            .retain(|id| !id.eq_ignore_ascii_case(&change.execution_id));
                    }
                    return Ok(Some(change));
                }
                Ok(None) => {
                    self.wait_after(Status::unavailable("the watch was broken off"))
                        .await?
                }
                Err(status) => self.wait_after(status).await?,
            }
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<Option<WatchExecutionsResponse>, Status> {
        let changes = match &mut self.changes {
            Some(changes) => changes,
            None => {
                let execution_ids = self.open.clone();
                let request = self
                    .client
                    .request(WatchExecutionsRequest { execution_ids });
                let answer = self.client.executions.watch_executions(request).await?;
                self.changes.insert(answer.into_inner())
            }
        };
        changes.message().await
    }

    /// Waits before the next try, unless the failure is for good or has lasted too long.
    async fn wait_after(&mut self, status: Status) -> Result<(), Status> {
        let was_open = self.changes.take().is_some();
        let is_passing = status.code() == Code::Unavailable
            || Lost::of(&status).is_some()
            || (was_open
                && matches!(
                    status.code(),
                    Code::Unknown | Code::Cancelled | Code::Internal
                ));
        if !is_passing || self.lost_for >= WATCH_PATIENCE {
            return Err(self.client.named(status));
        }
        self.lost_for += WATCH_PAUSE;
        tokio::time::sleep(WATCH_PAUSE).await;
        Ok(())
    }
}

/// How an answer was lost.
#[derive(Clone, Copy)]
enum Lost {
    /// There was no connection: nothing was sent.
    NeverThere,
    /// The connection broke.
    OnTheWay,
    /// It took too long.
    InTime,
}

impl Lost {
    /// `None` for what the API itself answered.
    fn of(status: &Status) -> Option<Self> {
        let mut cause = std::error::Error::source(status);
        let answered = cause.is_none();
        while let Some(error) = cause {
            if error.is::<TimeoutExpired>() {
                return Some(Self::InTime);
            }
            if error.is::<ConnectError>() {
                return Some(Self::NeverThere);
            }
            cause = error.source();
        }
        match status.code() {
            // The transport's own word, without the error that it came from.
            Code::Cancelled if status.message() == "Timeout expired" => Some(Self::InTime),
            _ if answered => None,
            _ => Some(Self::OnTheWay),
        }
    }
}

/// Whether only a person can change a state.
#[must_use]
pub fn is_final(state: ExecutionState) -> bool {
    matches!(
        state,
        ExecutionState::Succeeded
            | ExecutionState::Failed
            | ExecutionState::DeadLettered
            | ExecutionState::Cancelled
    )
}

fn id_or_refusal(verdict: Option<Verdict>) -> Result<String, Refusal> {
    match verdict {
        Some(Verdict::ExecutionId(id)) => Ok(id),
        Some(Verdict::Refusal(refusal)) => Err(refusal),
        None => Err(Refusal {
            code: Code::Internal as i32,
            field: String::new(),
            message: "the answer holds no verdict".to_owned(),
            retry_after: None,
        }),
    }
}
