//! The kinds of processes that make up a cluster.

use std::fmt;

/// One kind of process; also the name of its binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The stateless edge.
    ApiGateway,
    /// The hub.
    Scheduler,
    /// What runs the handlers.
    Worker,
}

impl Service {
    /// As logs, metrics and binaries name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiGateway => "api-gateway",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}
