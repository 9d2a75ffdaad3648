//! The methods that the gateway serves, and what each asks of its caller.

use proto::internal::v1::KeyScope;
use service::OTHER_LABEL;

/// A method, as paths name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Endpoint {
    Submit,
    SubmitBatch,
    GetExecution,
    ListExecutions,
    CancelExecution,
    RetryExecution,
    DiscardExecution,
    WatchExecutions,
    ListWorkers,
    DrainWorker,
    HealthCheck,
    HealthWatch,
    /// Whatever else a client asks for.
    Other,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 13] = [
        Self::Submit,
        Self::SubmitBatch,
        Self::GetExecution,
        Self::ListExecutions,
        Self::CancelExecution,
        Self::RetryExecution,
        Self::DiscardExecution,
        Self::WatchExecutions,
        Self::ListWorkers,
        Self::DrainWorker,
        Self::HealthCheck,
        Self::HealthWatch,
        Self::Other,
    ];

    /// The method that `path` names.
    pub(crate) fn of(path: &str) -> Self {
        let is_named = |endpoint: &Self| endpoint.label() == path;
        Self::ALL.into_iter().find(is_named).unwrap_or(Self::Other)
    }

    /// The path, as metrics and spans name the method.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Submit => "/watchwork.v1.ExecutionService/Submit",
            Self::SubmitBatch => "/watchwork.v1.ExecutionService/SubmitBatch",
            Self::GetExecution => "/watchwork.v1.ExecutionService/GetExecution",
            Self::ListExecutions => "/watchwork.v1.ExecutionService/ListExecutions",
            Self::CancelExecution => "/watchwork.v1.ExecutionService/CancelExecution",
            Self::RetryExecution => "/watchwork.v1.ExecutionService/RetryExecution",
            Self::DiscardExecution => "/watchwork.v1.ExecutionService/DiscardExecution",
            Self::WatchExecutions => "/watchwork.v1.ExecutionService/WatchExecutions",
            Self::ListWorkers => "/watchwork.v1.FleetService/ListWorkers",
            Self::DrainWorker => "/watchwork.v1.FleetService/DrainWorker",
            Self::HealthCheck => "/grpc.health.v1.Health/Check",
            Self::HealthWatch => "/grpc.health.v1.Health/Watch",
            Self::Other => OTHER_LABEL,
        }
    }

    /// The service and the method in it; empty for [`Endpoint::Other`].
    pub(crate) fn service_and_method(self) -> (&'static str, &'static str) {
        self.label()
            .trim_start_matches('/')
            .split_once('/')
            .unwrap_or_default()
    }

    /// Who may call it. There is no default: a method that isn't listed is served to nobody.
    pub(crate) fn access(self) -> Access {
        match self {
            Self::Submit
            | Self::SubmitBatch
            | Self::CancelExecution
            | Self::RetryExecution
            | Self::DiscardExecution => Access::Scope(KeyScope::Submit),
            Self::GetExecution | Self::ListExecutions | Self::WatchExecutions => {
                Access::Scope(KeyScope::Read)
            }
            Self::ListWorkers | Self::DrainWorker => Access::Scope(KeyScope::Operate),
            Self::HealthCheck | Self::HealthWatch => Access::Everybody,
            Self::Other => Access::Nobody,
        }
    }
}

/// Who may call a method.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Whoever has a key with this scope.
    Scope(KeyScope),
    /// Anybody, without a key.
    Everybody,
    /// Nobody.
    Nobody,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_method_and_any_other_to_nobody() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::of(endpoint.label()), endpoint);
        }
        let unknown = Endpoint::of("/watchwork.v1.ExecutionService/Purge");
        assert_eq!(unknown.access(), Access::Nobody);
    }
}
