//! What goes wrong, once: as a gRPC status with details, and as the refusal of a batch's item.

use std::borrow::Cow;
use std::time::Duration;

use proto::v1::Refusal;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every `google.rpc.ErrorInfo` of ours.
const ERROR_DOMAIN: &str = "watchwork";

/// A failure as the caller is told of it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    /// `ErrorInfo.reason`: stable, for programs.
    pub(crate) reason: &'static str,
    /// The field at fault, as a path from the submission or request; empty if it is none.
    pub(crate) field: Cow<'static, str>,
    /// What happened, to what, and what to do.
    pub(crate) message: String,
    /// When trying again makes sense; `None` where it doesn't, or might do the work twice.
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    /// A failure that is no single field's fault and that trying again doesn't mend.
    pub(crate) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let field = Cow::Borrowed("");
        Self {
            code,
            reason,
            field,
            message: message.into(),
            retry_after: None,
        }
    }

    /// A value that is not allowed.
    pub(crate) fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let problem = Self::new(Code::InvalidArgument, "INVALID_FIELD", message);
        Self {
            field: field.into(),
            ..problem
        }
    }

    /// Nothing was done, and the same call may work a second later.
    pub(crate) fn try_again(reason: &'static str, message: impl Into<String>) -> Self {
        let problem = Self::new(Code::Unavailable, reason, message);
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..problem
        }
    }

    /// The same, with its field as part of `parent`.
    pub(crate) fn within(self, parent: &str) -> Self {
        if self.field.is_empty() {
            return self;
        }
        Self {
            field: format!("{parent}.{}", self.field).into(),
            ..self
        }
    }

    /// As the verdict on one item of a batch.
    pub(crate) fn into_refusal(self) -> Refusal {
        Refusal {
            code: self.code as i32,
            field: self.field.into_owned(),
            message: self.message,
            retry_after: self.retry_after.and_then(|after| after.try_into().ok()),
        }
    }

    /// As the answer to a whole call.
    pub(crate) fn into_status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, ERROR_DOMAIN, []);
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        if self.field.is_empty() {
            return Status::with_error_details(self.code, self.message, details);
        }
        if self.code == Code::ResourceExhausted {
            details.add_quota_failure_violation(self.field.as_ref(), &self.message);
            return Status::with_error_details(self.code, self.message, details);
        }
        details.add_bad_request_violation(self.field.as_ref(), &self.message);
        let message = format!("{}: {}", self.field, self.message);
        Status::with_error_details(self.code, message, details)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = Code::from_i32(refusal.code);
        let is_depth =
            code == Code::ResourceExhausted && matches!(&*refusal.field, "queue" | "tenant");
        let reason = match code {
            Code::InvalidArgument => "INVALID_FIELD",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists if refusal.field == "idempotency_key" => "IDEMPOTENCY_CONFLICT",
            Code::Unavailable => "UNAVAILABLE",
            Code::ResourceExhausted if is_depth => "DEPTH_LIMIT",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            _ => "REFUSED",
        };
        let problem = Self::new(code, reason, refusal.message);
        Self {
            field: refusal.field.into(),
            retry_after: refusal.retry_after.and_then(|after| after.try_into().ok()),
            ..problem
        }
    }
}

impl From<domain::limits::LimitError> for Problem {
    fn from(error: domain::limits::LimitError) -> Self {
        Self::invalid(error.field, error.message)
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        problem.into_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_in_message_and_details() {
        let status = Problem::invalid("queue", "must be short")
            .within("submission")
            .into_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "submission.queue: must be short");
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "submission.queue");
        assert_eq!(details.error_info().unwrap().domain, "watchwork");
    }

    #[test]
    fn a_full_queue_is_a_quota_that_may_have_room_soon() {
        let refusal = Refusal {
            code: Code::ResourceExhausted as i32,
            field: "queue".to_owned(),
            message: "queue \"a\" is full".to_owned(),
            retry_after: Duration::from_secs(1).try_into().ok(),
        };
        let status = Problem::from(refusal).into_status();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "queue \"a\" is full");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "DEPTH_LIMIT");
        assert_eq!(
            details.quota_failure().unwrap().violations[0].subject,
            "queue"
        );
        assert!(details.retry_info().is_some() && details.bad_request().is_none());
    }

    #[test]
    fn only_what_is_safe_to_repeat_says_when_to_try_again() {
        let safe = Problem::try_again("NO_OWNER", "lane 7 has no owner").into_status();
        assert!(safe.get_error_details().retry_info().is_some());
        let unsafe_one = Problem::new(Code::Unavailable, "IN_DOUBT", "may be taken").into_status();
        assert!(unsafe_one.get_error_details().retry_info().is_none());
    }
}
