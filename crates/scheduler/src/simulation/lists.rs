//! Lists are for people, of whom the world has none.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::{Hour, LaneId, Stretch};
use store::{Error, ExecutionPlace, LastOutcome, ListPart, ListedHead, ReadLists, WindowMap};

use super::link::broken;
use super::storage::Connection;

#[async_trait]
impl ReadLists for Connection {
    async fn list_accepted(&self, _: &WindowMap, _: &ListPart) -> Result<Stretch<Hour>, Error> {
        Err(broken())
    }

    async fn list_ended(
        &self,
        _: &WindowMap,
        _: &ListPart,
        _: &[i16],
    ) -> Result<Stretch<Hour>, Error> {
        Err(broken())
    }

    async fn list_due(&self, _: &WindowMap, _: &ListPart) -> Result<Stretch<Hour>, Error> {
        Err(broken())
    }

    async fn listed_heads(
        &self,
        _: &WindowMap,
        _: i32,
        _: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), ListedHead>, Error> {
        Err(broken())
    }

    async fn last_outcomes(
        &self,
        _: &WindowMap,
        _: i32,
        _: &[ExecutionPlace],
    ) -> Result<BTreeMap<(LaneId, u64), LastOutcome>, Error> {
        Err(broken())
    }
}
