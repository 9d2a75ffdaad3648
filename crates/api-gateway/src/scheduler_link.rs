//! The way to one scheduler: two connections, opened when first used and again when broken.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::internal::v1::scheduler_service_client::SchedulerServiceClient;
use proto::internal::v1::{ForwardedSubmission, SubmitRequest};
use proto::v1::SubmitVerdict;
use proto::v1::submit_verdict::Verdict;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Status};

use crate::problem::Problem;
use crate::singles::Singles;

/// Two carry 8 to 50 % more than one; more add nothing.
const CONNECTIONS: usize = 2;
/// How long a submission may take: far beyond any commit, short enough for its caller.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for what changes nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long others are preferred to a scheduler that couldn't be connected to.
const AVOIDED: Duration = Duration::from_secs(1);
/// An execution with a thousand attempts, each with 8 KiB of error.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A client of one connection.
pub(crate) type SchedulerClient = SchedulerServiceClient<Channel>;

/// What proves to a scheduler that a gateway is calling.
#[derive(Clone, Debug)]
pub(crate) struct ServiceToken(MetadataValue<Ascii>);

impl ServiceToken {
    /// # Errors
    /// The token holds characters that no header may.
    pub(crate) fn new(token: &str) -> anyhow::Result<Self> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| {
            anyhow::anyhow!("SERVICE_TOKEN may hold printable ASCII characters only")
        })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The message as a request that carries the token.
    pub(crate) fn sign<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        request
    }
}

/// A client of the scheduler at `address`, which connects when it is first used.
///
/// # Errors
/// `address` is not `http://host:port`.
pub(crate) fn client(address: &str) -> anyhow::Result<SchedulerClient> {
    let client = SchedulerClient::new(service::channel(address)?);
    Ok(client.max_decoding_message_size(MAX_ANSWER_BYTES))
}

/// A scheduler, and what is on its way there.
pub(crate) struct SchedulerLink {
    scheduler_id: String,
    address: String,
    token: ServiceToken,
    clients: [SchedulerClient; CONNECTIONS],
    turn: AtomicUsize,
    /// When it last couldn't be connected to.
    unreachable_at: Mutex<Option<Instant>>,
    pub(crate) singles: Singles,
}

impl SchedulerLink {
    /// # Errors
    /// `address` is not `http://host:port`.
    pub(crate) fn new(id: &str, address: &str, token: ServiceToken) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            scheduler_id: id.to_owned(),
            address: address.to_owned(),
            token,
            clients: [client(address)?, client(address)?],
            turn: AtomicUsize::new(0),
            unreachable_at: Mutex::default(),
            singles: Singles::default(),
        }))
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn scheduler_id(&self) -> &str {
        &self.scheduler_id
    }

    /// A client of the connection whose turn it is.
    pub(crate) fn client(&self) -> SchedulerClient {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.clients[turn % CONNECTIONS].clone()
    }

    /// The message as a request to this scheduler, which changes nothing there.
    pub(crate) fn read<T>(&self, message: T) -> Request<T> {
        let mut request = self.token.sign(message);
        request.set_timeout(READ_TIMEOUT);
        request
    }

    /// The message as a request to this scheduler, for as long as it takes.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        self.token.sign(message)
    }

    /// Hands over items; as many verdicts come back, in order. There is no deadline that the
    /// scheduler knows: it must not stop half-way. The hasty wait for no idempotency key: see [`is_key_held`].
    pub(crate) async fn submit(
        &self,
        submissions: Vec<ForwardedSubmission>,
        hasty: bool,
    ) -> Result<Vec<SubmitVerdict>, CallFailure> {
        let items = submissions.len();
        let request = self.request(SubmitRequest {
            submissions,
            forwarded: false,
            hasty,
        });
        let mut client = self.client();
        let Ok(answer) = timeout(SUBMIT_TIMEOUT, client.submit(request)).await else {
            return Err(self.unanswered("gave no answer in time"));
        };
        let verdicts = answer
            .map_err(|status| self.failure(&status))?
            .into_inner()
            .verdicts;
        if verdicts.len() != items || verdicts.iter().any(|verdict| verdict.verdict.is_none()) {
            return Err(self.unanswered("gave another number of verdicts than it got items"));
        }
        Ok(verdicts)
    }

    /// It was called, and what it says will never be known.
    pub(crate) fn unanswered(&self, what: &str) -> CallFailure {
        let message = format!("scheduler {} {what}", self.scheduler_id);
        CallFailure {
            code: Code::Unavailable,
            reach: Reach::Unanswered,
            message,
        }
    }

    /// Whether nothing speaks against sending something there: it could be connected to, or nobody
    /// tried within the last second.
    pub(crate) fn is_reachable(&self) -> bool {
        let at = self
            .unreachable_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        at.is_none_or(|at| at.elapsed() >= AVOIDED)
    }

    fn note_unreachable(&self) {
        let mut at = self
            .unreachable_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *at = Some(Instant::now());
    }

    /// What a failed call to this scheduler means.
    pub(crate) fn failure(&self, status: &Status) -> CallFailure {
        if matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied
        ) {
            tracing::error!(
                event = "service_token_refused",
                scheduler_id = self.scheduler_id,
                address = self.address,
                "the scheduler refuses this gateway: give both the same SERVICE_TOKEN"
            );
        }
        let reach = Reach::of(status);
        let (id, said) = (&self.scheduler_id, status.message());
        let message = match reach {
            Reach::NotSent => {
                self.note_unreachable();
                format!("scheduler {id} can't be reached: {said}")
            }
            Reach::Unanswered => format!("scheduler {id} gave no answer: {said}"),
            Reach::Answered => format!("scheduler {id}: {said}"),
        };
        CallFailure {
            code: status.code(),
            reach,
            message,
        }
    }
}

/// Whether an item of a hasty submission was refused for a key that may be somebody's, and is to be sent again alone.
pub(crate) fn is_key_held(verdict: &SubmitVerdict) -> bool {
    matches!(&verdict.verdict, Some(Verdict::Refusal(refusal)) if refusal.code == Code::Aborted as i32)
}

/// How far a failed call came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// No connection: the scheduler never saw it.
    NotSent,
    /// It was sent; its answer is lost.
    Unanswered,
    /// The scheduler answered with an error.
    Answered,
}

impl Reach {
    fn of(status: &Status) -> Self {
        // What the scheduler itself answered has no source; what went wrong on the way has.
        let Some(source) = status.source() else {
            // No scheduler cancels a call: it was ended here, because it took too long.
            return match status.code() {
                Code::Cancelled => Self::Unanswered,
                _ => Self::Answered,
            };
        };
        let mut cause = Some(source);
        while let Some(error) = cause {
            if error.is::<ConnectError>() {
                return Self::NotSent;
            }
            cause = error.source();
        }
        Self::Unanswered
    }
}

/// Why a call to a scheduler failed.
#[derive(Clone, Debug)]
pub(crate) struct CallFailure {
    pub(crate) code: Code,
    pub(crate) reach: Reach,
    message: String,
}

impl CallFailure {
    /// Nothing was sent because this gateway has enough waiting already.
    pub(crate) fn overloaded(message: &str) -> Self {
        let message = message.to_owned();
        Self {
            code: Code::ResourceExhausted,
            reach: Reach::NotSent,
            message,
        }
    }

    /// The forward that an item travelled with was given up.
    pub(crate) fn given_up() -> Self {
        let message = "the gateway gave the forward up".to_owned();
        Self {
            code: Code::Unavailable,
            reach: Reach::Unanswered,
            message,
        }
    }

    /// Whether another scheduler, or a new connection, may be asked without doing harm twice.
    pub(crate) fn is_harmless(&self) -> bool {
        self.reach == Reach::NotSent && self.code != Code::ResourceExhausted
    }

    /// Whether what may be repeated may find its answer elsewhere, or a moment later.
    pub(crate) fn is_worth_repeating(&self) -> bool {
        self.reach != Reach::Answered || self.code == Code::Unavailable
    }

    /// For a submission, which must not be done twice.
    pub(crate) fn of_submission(&self) -> Problem {
        match (self.reach, self.code) {
            (Reach::NotSent, Code::ResourceExhausted) => Problem {
                code: Code::ResourceExhausted,
                ..Problem::try_again("GATEWAY_OVERLOADED", &self.message)
            },
            (Reach::NotSent, _) => {
                let message = format!("{}; it was not taken, try again in a second", self.message);
                Problem::try_again("UNREACHABLE", message)
            }
            (_, Code::Unauthenticated | Code::PermissionDenied) => self.misconfigured(),
            (Reach::Answered, Code::ResourceExhausted) => Problem {
                code: Code::ResourceExhausted,
                ..Problem::try_again("RESOURCE_EXHAUSTED", &self.message)
            },
            _ => {
                let message = format!(
                    "{}; it may or may not have been taken: with an idempotency key it can be submitted \
                     again, and is taken once",
                    self.message
                );
                Problem::new(Code::Unavailable, "IN_DOUBT", message)
            }
        }
    }

    /// For what may be repeated at will: it changes nothing, or the second time does what the first did.
    pub(crate) fn of_repeatable(&self) -> Problem {
        match (self.reach, self.code) {
            (_, Code::Unauthenticated | Code::PermissionDenied) => self.misconfigured(),
            (Reach::Answered, Code::NotFound) => {
                Problem::new(Code::NotFound, "NOT_FOUND", self.plain_message())
            }
            (Reach::Answered, Code::InvalidArgument) => {
                Problem::new(Code::InvalidArgument, "INVALID_FIELD", self.plain_message())
            }
            (Reach::Answered, Code::FailedPrecondition) => Problem::new(
                Code::FailedPrecondition,
                "FAILED_PRECONDITION",
                self.plain_message(),
            ),
            (Reach::Answered, Code::Internal | Code::Unknown | Code::Unimplemented) => {
                Problem::new(Code::Internal, "INTERNAL", &self.message)
            }
            (Reach::Answered, _) => Problem::try_again("UNAVAILABLE", &self.message),
            _ => {
                let message = format!("{}; try again in a second", self.message);
                Problem::try_again("UNAVAILABLE", message)
            }
        }
    }

    /// What a caller did wrong is between them and the installation, whichever scheduler says it.
    fn plain_message(&self) -> &str {
        self.message
            .split_once(": ")
            .map_or(&self.message, |(_, message)| message)
    }

    fn misconfigured(&self) -> Problem {
        let message = "the gateway has no right to speak with the schedulers: \
                       its operator must give both the same SERVICE_TOKEN";
        Problem::new(Code::Internal, "MISCONFIGURED", message)
    }
}
