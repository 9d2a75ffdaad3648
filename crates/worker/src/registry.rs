use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};

use crate::context::Context;
use crate::handler::{Handler, HandlerError, Output};
use crate::payload::FromPayload;

/// A handler whose payload's type is out of sight.
pub(crate) trait AnyHandler: Send + Sync {
    /// Decodes the payload and makes one attempt.
    fn call(&self, payload: Bytes, content_type: &str, context: Context) -> Attempting<'_>;
}

/// An attempt under way.
pub(crate) type Attempting<'a> = BoxFuture<'a, Result<Output, HandlerError>>;

impl<H: Handler> AnyHandler for H {
    fn call(&self, payload: Bytes, content_type: &str, context: Context) -> Attempting<'_> {
        match H::Payload::from_payload(payload, content_type) {
            Ok(payload) => self.run(payload, context),
            Err(reason) => ready(Err(HandlerError::new("payload", reason).permanent())).boxed(),
        }
    }
}

/// Which handler runs which job type.
#[derive(Default)]
pub(crate) struct Registry {
    handlers: HashMap<String, Arc<dyn AnyHandler>>,
}

impl Registry {
    /// Adds a handler; `false` if the type has one already.
    pub(crate) fn add(&mut self, job_type: String, handler: impl Handler) -> bool {
        self.handlers.insert(job_type, Arc::new(handler)).is_none()
    }

    /// The handler of a type.
    pub(crate) fn get(&self, job_type: &str) -> Option<&Arc<dyn AnyHandler>> {
        self.handlers.get(job_type)
    }

    /// The types it has handlers for, in order.
    pub(crate) fn job_types(&self) -> Vec<String> {
        let mut types: Vec<String> = self.handlers.keys().cloned().collect();
        types.sort_unstable();
        types
    }
}
