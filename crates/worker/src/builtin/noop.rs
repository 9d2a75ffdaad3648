use async_trait::async_trait;
use bytes::Bytes;

use crate::context::Context;
use crate::handler::{Handler, HandlerError, Output};

/// Does nothing, at once, with any payload: for measuring everything else.
pub struct Noop;

#[async_trait]
impl Handler for Noop {
    type Payload = Bytes;

    async fn run(&self, _payload: Bytes, _context: Context) -> Result<Output, HandlerError> {
        Ok(Output::none())
    }
}
