//! Submissions: from what the gateway sent to the lane groups, or on to who owns the lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use domain::limits::{self, LimitError};
use domain::{LaneId, Micros, Priority};
use proto::internal::v1::{ForwardedSubmission, RequestOrigin, SubmitRequest, SubmitResponse};
use proto::v1::{Refusal, Submission, SubmitVerdict, submit_verdict::Verdict};
use store::Head;
use tokio::sync::oneshot;
use tonic::Code;

use super::retry_policy::retry_policy;
use super::scheduler_service::Internal;
use super::{OUTAGE, told};
use crate::group::{IdempotencyKey, Incoming, Input, NotTaken, Submit, Taken, Verdicts};
use crate::posting;
use crate::shared::Work;

/// Items of one request with their places in it.
type Placed<T> = Vec<(usize, T)>;

impl Internal {
    /// Takes what belongs to lanes of its own, forwards the rest once.
    pub(crate) async fn accept(&self, request: SubmitRequest) -> SubmitResponse {
        let (arrived, hasty) = (SystemTime::now(), request.hasty);
        if self.shared.deadline.has_passed() {
            let message = format!("{OUTAGE}; nothing was taken");
            let verdict = refused(soon(refusal(Code::Unavailable, "", message)));
            let verdicts = vec![verdict; request.submissions.len()];
            return SubmitResponse { verdicts };
        }
        let mut verdicts: Vec<SubmitVerdict> =
            vec![SubmitVerdict::default(); request.submissions.len()];
        let view = Arc::clone(&self.shared.view.borrow());
        let mut own: BTreeMap<usize, Placed<Incoming>> = BTreeMap::new();
        let mut foreign: BTreeMap<String, Placed<ForwardedSubmission>> = BTreeMap::new();
        for (place, item) in request.submissions.into_iter().enumerate() {
            match foreign_owner(&view, item.lane, &self.shared.scheduler_id) {
                Some(address) if !request.forwarded => {
                    foreign.entry(address).or_default().push((place, item));
                }
                _ => match self.incoming(item, arrived).await {
                    Ok(item) => {
                        let group = usize::from(item.lane.0) % self.groups.0.len();
                        own.entry(group).or_default().push((place, item));
                    }
                    Err(refusal) => verdicts[place] = refused(refusal),
                },
            }
        }
        let accepted = futures::future::join_all(
            own.into_iter()
                .map(|(group, items)| self.submit_to_group(group, items, hasty)),
        );
        let forwarded = futures::future::join_all(
            foreign
                .into_iter()
                .map(|(address, items)| self.forward(address, items, hasty)),
        );
        let (accepted, forwarded) = futures::future::join(accepted, forwarded).await;
        for (place, verdict) in accepted.into_iter().chain(forwarded).flatten() {
            verdicts[place] = verdict;
        }
        SubmitResponse { verdicts }
    }

    async fn submit_to_group(
        &self,
        group: usize,
        items: Placed<Incoming>,
        hasty: bool,
    ) -> Placed<SubmitVerdict> {
        let (places, items): (Vec<usize>, Vec<Incoming>) = items.into_iter().unzip();
        let (reply, verdicts) = oneshot::channel();
        let sent = items.clone();
        self.groups.0[group]
            .send(Input::Submit(Submit {
                items: sent,
                hasty,
                reply,
            }))
            .await;
        let verdicts = verdicts
            .await
            .unwrap_or_else(|_| places.iter().map(|_| Err(NotTaken::InDoubt)).collect());
        let verdicts = self.post_what_has_no_owner(items, verdicts, hasty).await;
        places
            .into_iter()
            .zip(verdicts.iter().map(|verdict| told_of(verdict, hasty)))
            .collect()
    }

    /// What belongs to a lane without an owner goes through its inbox: whoever takes the lane finds it.
    async fn post_what_has_no_owner(
        &self,
        items: Vec<Incoming>,
        mut verdicts: Verdicts,
        hasty: bool,
    ) -> Verdicts {
        let homeless =
            |verdict: &Result<_, NotTaken>| matches!(verdict, Err(NotTaken::NotOwner(_)));
        if !verdicts.iter().any(homeless) || self.shared.deadline.has_passed() {
            return verdicts;
        }
        let places: Vec<usize> = (0..items.len())
            .filter(|i| homeless(&verdicts[*i]))
            .collect();
        let posted = places.iter().map(|place| items[*place].clone()).collect();
        for (place, verdict) in places
            .into_iter()
            .zip(posting::post(&self.shared, posted, hasty).await)
        {
            verdicts[place] = verdict;
        }
        verdicts
    }

    async fn forward(
        &self,
        address: String,
        items: Placed<ForwardedSubmission>,
        hasty: bool,
    ) -> Placed<SubmitVerdict> {
        let (places, submissions): (Vec<usize>, Vec<_>) = items.into_iter().unzip();
        let request = self.peers.request(SubmitRequest {
            submissions,
            forwarded: true,
            hasty,
        });
        let answer = match self.peers.client(&address) {
            Ok(mut client) => client.submit(request).await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(answer) => places
                .into_iter()
                .zip(answer.into_inner().verdicts)
                .collect(),
            Err(status) => {
                let why = format!(
                    "the lane's owner didn't answer ({}): the item may or may not have been taken",
                    status.message()
                );
                let verdict = refused(refusal(Code::Unavailable, "", why));
                places
                    .into_iter()
                    .map(|place| (place, verdict.clone()))
                    .collect()
            }
        }
    }

    /// Checks an item again, since what reaches a lane must never be refused by the database, and fills in
    /// the numbers of its names.
    async fn incoming(
        &self,
        item: ForwardedSubmission,
        arrived: SystemTime,
    ) -> Result<Incoming, Refusal> {
        let mut submission = item.submission.unwrap_or_default();
        let now = self.shared.clock.now();
        check(&submission, now).map_err(|e| refusal(Code::InvalidArgument, e.field, e.message))?;
        let policy = retry_policy(submission.retry_policy.as_ref())
            .map_err(|e| refusal(Code::InvalidArgument, e.field, e.message))?;
        let lane = u16::try_from(item.lane).unwrap_or(u16::MAX);
        let unavailable = |e: store::Error| soon(refusal(Code::Unavailable, "", told(&e)));
        let (tenant, queue) = (number(item.tenant), number(item.queue));
        let catalog = &self.shared.catalog;
        let job_type = catalog.type_number(tenant, &submission.job_type).await;
        let job_type = job_type.map_err(unavailable)?.ok_or_else(|| {
            let message = format!(
                "no worker ever announced the type {:?}: is its name right, and has a worker run?",
                submission.job_type
            );
            refusal(Code::NotFound, "job_type", message)
        })?;
        let retry_policy = catalog.policy_number(&policy).await.map_err(unavailable)?;
        let key = key_of(&submission, (tenant, queue));
        // What lies in the past is due at once.
        submission.due_at.take_if(|due| micros_of(*due) <= now);
        let head = head_of(
            submission,
            item.origin,
            (tenant, queue, job_type, retry_policy),
        );
        let work: Work = self.shared.work_of(head).await.map_err(unavailable)?;
        Ok(Incoming {
            lane: LaneId(lane),
            work: Arc::new(work),
            arrived,
            key,
        })
    }
}

fn key_of(submission: &Submission, (tenant, queue): (i32, i32)) -> Option<IdempotencyKey> {
    if submission.idempotency_key.is_empty() {
        return None;
    }
    let to_do = domain::ToDo {
        queue,
        job_type: &submission.job_type,
        content_type: &submission.content_type,
        due: submission.due_at.map(micros_of),
        payload: &submission.payload,
    };
    Some(IdempotencyKey {
        hash: domain::key_hash(tenant, &submission.idempotency_key),
        fingerprint: to_do.fingerprint(),
    })
}

/// To the microsecond, as the database keeps it.
fn micros_of(time: prost_types::Timestamp) -> Micros {
    let micros = i64::from(time.nanos) / 1_000;
    Micros(
        time.seconds
            .saturating_mul(1_000_000)
            .saturating_add(micros),
    )
}

/// Where a lane's owner is reached if it is another scheduler.
fn foreign_owner(view: &proto::v1::ClusterView, lane: u32, own: &str) -> Option<String> {
    let owner = *view.lane_owners.get(lane as usize)?;
    let scheduler = view.schedulers.get(owner.checked_sub(1)? as usize)?;
    (scheduler.scheduler_id != own).then(|| scheduler.address.clone())
}

fn number(wire: u32) -> i32 {
    i32::try_from(wire).unwrap_or(0)
}

fn told_of(verdict: &Result<Taken, NotTaken>, hasty: bool) -> SubmitVerdict {
    let why = match verdict {
        Ok(Taken { id, duplicate }) => {
            return SubmitVerdict {
                verdict: Some(Verdict::ExecutionId(id.to_string())),
                duplicate: *duplicate,
            };
        }
        Err(why) => why,
    };
    let (code, field) = match why {
        NotTaken::KeyConflict(_) => (Code::AlreadyExists, "idempotency_key"),
        NotTaken::KeyHeld if hasty => (Code::Aborted, "idempotency_key"),
        NotTaken::TooDeep(limit) => (Code::ResourceExhausted, limit.field()),
        _ => (Code::Unavailable, ""),
    };
    let refusal = refusal(code, field, why.to_string());
    refused(match why {
        NotTaken::InDoubt | NotTaken::KeyConflict(_) => refusal,
        NotTaken::NotOwner(_) | NotTaken::NotNow | NotTaken::KeyHeld | NotTaken::TooDeep(_) => {
            soon(refusal)
        }
    })
}

fn refused(refusal: Refusal) -> SubmitVerdict {
    SubmitVerdict {
        verdict: Some(Verdict::Refusal(refusal)),
        duplicate: false,
    }
}

fn refusal(code: Code, field: &str, message: String) -> Refusal {
    Refusal {
        code: code as i32,
        field: field.to_owned(),
        message,
        retry_after: None,
    }
}

/// The same for what was not taken: it may be handed in again in a second.
fn soon(refusal: Refusal) -> Refusal {
    let retry_after = prost_types::Duration {
        seconds: 1,
        nanos: 0,
    };
    Refusal {
        retry_after: Some(retry_after),
        ..refusal
    }
}

fn check(submission: &Submission, now: Micros) -> Result<(), LimitError> {
    fn texts<'a>((name, value): (&'a String, &'a String)) -> (&'a str, &'a str) {
        (name, value)
    }
    limits::check_type_name("job_type", &submission.job_type)?;
    limits::check_content_type("content_type", &submission.content_type)?;
    limits::check_correlation_id(&submission.correlation_id)?;
    limits::check_idempotency_key(&submission.idempotency_key)?;
    if let Some(due) = submission.due_at {
        limits::check_due(micros_of(due), now)?;
    }
    limits::check_labels(submission.labels.iter().map(texts))?;
    limits::check_headers(submission.headers.iter().map(texts))?;
    if submission.payload.len() > limits::MAX_PAYLOAD_BYTES {
        let message = format!(
            "{} bytes; at most 1 MiB is allowed",
            submission.payload.len()
        );
        return Err(LimitError::new("payload", message));
    }
    if Priority::from_number(submission.priority).is_none() {
        return Err(LimitError::new(
            "priority",
            format!("{} is unknown", submission.priority),
        ));
    }
    Ok(())
}

fn head_of(
    submission: Submission,
    origin: Option<RequestOrigin>,
    (tenant, queue, job_type, retry_policy): (i32, i32, i32, i32),
) -> Head {
    let origin = origin.unwrap_or_default();
    let text = |text: String| (!text.is_empty()).then(|| text.into_boxed_str());
    let timeout = submission
        .timeout
        .and_then(|timeout| Duration::try_from(timeout).ok());
    let timeout = timeout.unwrap_or(limits::DEFAULT_TIMEOUT);
    let received = i64::try_from(origin.received_unix_us).unwrap_or(0);
    Head {
        tenant,
        queue,
        job_type,
        priority: Priority::from_number(submission.priority).unwrap_or(Priority::Normal),
        accepted: Micros(0),
        due: submission.due_at.map(micros_of),
        timeout: timeout.clamp(limits::MIN_TIMEOUT, limits::MAX_TIMEOUT),
        retry_policy,
        trace: bytes_of(&origin.trace_context),
        parent_span: bytes_of(&origin.parent_span_id),
        request_at: (received > 0).then_some(Micros(received)),
        tracestate: text(
            service::parse_tracestate(&origin.tracestate)
                .unwrap_or_default()
                .to_owned(),
        ),
        correlation_id: text(submission.correlation_id),
        labels: submission.labels.into_iter().collect(),
        headers: submission.headers.into_iter().collect(),
        payload: submission.payload,
        content_type: text(submission.content_type),
    }
}

fn bytes_of<const N: usize>(bytes: &Bytes) -> Option<[u8; N]> {
    bytes[..].try_into().ok()
}
