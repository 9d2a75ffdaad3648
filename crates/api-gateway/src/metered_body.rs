//! A request's body that is paid for as it comes in.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use domain::limits;
use http_body::{Frame, SizeHint};
use proto::v1::Submission;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::field_count::FieldCount;
use crate::problem::Problem;
use crate::room::{Full, Share};

/// More items than any legal batch has, and more fields than all of them together: some 60 each, with headers
/// and labels.
const MAX_ITEMS: u64 = 10_000;
const MAX_FIELDS: u64 = 100_000;
/// What a decoded item takes beside its bytes, and each of its own fields.
const ITEM_BYTES: u64 = size_of::<Submission>() as u64;
const FIELD_BYTES: u64 = 64;

/// A body whose bytes, and what will be made of them, come out of a share of the gateway's room.
pub(crate) struct MeteredBody {
    body: Body,
    fields: FieldCount,
    share: Arc<Share>,
}

impl MeteredBody {
    pub(crate) fn new(body: Body, share: Arc<Share>) -> Self {
        let fields = FieldCount::new();
        Self {
            body,
            fields,
            share,
        }
    }

    fn pay(&mut self, data: &[u8]) -> Result<(), Problem> {
        let paid = self.price();
        self.fields.read(data);
        if self.fields.outer > MAX_ITEMS || self.fields.inner > MAX_FIELDS {
            return Err(too_many_fields());
        }
        self.share
            .take(self.price().saturating_sub(paid))
            .map_err(|Full| overloaded())
    }

    /// What the message will take as far as it is known: all its bytes from the beginning, so that two don't get
    /// halfway each. The decoder refuses what is too long before it takes anything.
    fn price(&self) -> u64 {
        let length = Some(self.fields.length).filter(|it| *it as usize <= limits::MAX_BATCH_BYTES);
        u64::from(length.unwrap_or(0))
            + self.fields.outer * ITEM_BYTES
            + self.fields.inner * FIELD_BYTES
    }
}

impl http_body::Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(problem) = self.pay(data)
        {
            return Poll::Ready(Some(Err(problem.into_status())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn too_many_fields() -> Problem {
    let message =
        format!("no legal message has more than {MAX_ITEMS} items or {MAX_FIELDS} fields in them");
    Problem::new(Code::InvalidArgument, "MALFORMED_MESSAGE", message)
}

fn overloaded() -> Problem {
    let message = "too much of yours is under way in this gateway already, and nothing of this call was taken; \
                   send less at a time, or try again in a second";
    Problem {
        code: Code::ResourceExhausted,
        ..Problem::try_again("GATEWAY_OVERLOADED", message)
    }
}
