//! Asking the memory of lanes, wherever their owners are; and answering for one's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{LaneId, Stretch};
use futures::future::try_join_all;
use proto::internal::v1::{
    ListOpenRequest, ListOpenResponse, LocateRequest, LocateResponse, Located,
};
use tokio::sync::oneshot;
use tonic::Status;

use super::wire;
use crate::group::{InMemory, Input, OpenFound, OpenList, Sought, joined};
use crate::rpc::scheduler_service::Internal;

impl Internal {
    /// What is open in lanes of any owners.
    pub(super) async fn list_open_everywhere(
        &self,
        list: OpenList,
        lanes: Vec<LaneId>,
    ) -> Result<OpenFound, Status> {
        let list = Arc::new(list);
        let asked = placed_by(lanes, |lane| self.owner_elsewhere(*lane)).into_iter();
        let found = asked.map(async |(owner, placed)| {
            let lanes: Vec<LaneId> = placed.into_iter().map(|(_, lane)| lane).collect();
            match owner {
                None => self.list_own_open(&list, lanes).await,
                Some(address) => self.ask_for_open(&address, &list, &lanes).await,
            }
        });
        Ok(together(try_join_all(found).await?))
    }

    /// Where executions of any lanes stand, in the order asked for.
    pub(super) async fn locate_everywhere(
        &self,
        sought: Vec<Sought>,
    ) -> Result<Vec<InMemory>, Status> {
        let owner = |sought: &Sought| self.owner_elsewhere(sought.lane);
        let asked = placed_by(sought, owner).into_iter();
        let found = asked.map(async |(owner, placed)| {
            let (places, sought): (Vec<usize>, Vec<Sought>) = placed.into_iter().unzip();
            let located = match owner {
                None => self.locate_own(sought).await?,
                Some(address) => self.ask_where(&address, &sought).await?,
            };
            Ok::<_, Status>(places.into_iter().zip(located))
        });
        Ok(in_order(try_join_all(found).await?))
    }

    /// What another scheduler asks of this one's lanes.
    pub(in crate::rpc) async fn tell_open(
        &self,
        request: ListOpenRequest,
    ) -> Result<ListOpenResponse, Status> {
        let (list, lanes) = wire::open_list(request)?;
        let found = self.list_own_open(&Arc::new(list), lanes).await?;
        Ok(wire::open_response(found))
    }

    /// Where executions of this scheduler's lanes stand, for another one.
    pub(in crate::rpc) async fn tell_where(
        &self,
        request: LocateRequest,
    ) -> Result<LocateResponse, Status> {
        let sought = request.sought.iter().map(wire::sought).collect();
        let located = self.locate_own(sought).await?;
        let located: Vec<Located> = located.iter().map(wire::located).collect();
        Ok(LocateResponse { located })
    }

    async fn list_own_open(
        &self,
        list: &Arc<OpenList>,
        lanes: Vec<LaneId>,
    ) -> Result<OpenFound, Status> {
        let asked = placed_by(lanes, |lane| self.groups.place_of(*lane)).into_iter();
        let found = asked.map(async |(group, placed)| {
            let lanes = placed.into_iter().map(|(_, lane)| lane).collect();
            let (reply, found) = oneshot::channel();
            let input = Input::ListOpen(Arc::clone(list), lanes, reply);
            self.groups.0[group].send(input).await;
            found.await.ok().flatten().ok_or_else(moving)
        });
        Ok(together(try_join_all(found).await?))
    }

    async fn locate_own(&self, sought: Vec<Sought>) -> Result<Vec<InMemory>, Status> {
        let group = |sought: &Sought| self.groups.place_of(sought.lane);
        let asked = placed_by(sought, group).into_iter();
        let found = asked.map(async |(group, placed)| {
            let (places, sought): (Vec<usize>, Vec<Sought>) = placed.into_iter().unzip();
            let (reply, located) = oneshot::channel();
            self.groups.0[group]
                .send(Input::Locate(sought, reply))
                .await;
            let located = located.await.ok().flatten().ok_or_else(moving)?;
            Ok::<_, Status>(places.into_iter().zip(located))
        });
        Ok(in_order(try_join_all(found).await?))
    }

    async fn ask_for_open(
        &self,
        address: &str,
        list: &OpenList,
        lanes: &[LaneId],
    ) -> Result<OpenFound, Status> {
        let request = self.peers.request(wire::open_request(list, lanes));
        let mut client = self.peers.client(address)?;
        let answer = client.list_open(request).await.map_err(unanswered)?;
        wire::open_found(answer.into_inner())
    }

    async fn ask_where(&self, address: &str, sought: &[Sought]) -> Result<Vec<InMemory>, Status> {
        let sought: Vec<_> = sought.iter().map(wire::sought_message).collect();
        let count = sought.len();
        let request = self.peers.request(LocateRequest { sought });
        let mut client = self.peers.client(address)?;
        let answer = client.locate(request).await.map_err(unanswered)?;
        let located = answer.into_inner().located;
        match located.len() == count {
            true => Ok(located.iter().map(wire::in_memory).collect()),
            false => Err(wire::nonsense()),
        }
    }
}

/// What is to be asked, with its places, by who is asked.
fn placed_by<T, K: Ord>(asked: Vec<T>, whom: impl Fn(&T) -> K) -> BTreeMap<K, Vec<(usize, T)>> {
    let mut placed: BTreeMap<K, Vec<(usize, T)>> = BTreeMap::new();
    for (place, asked) in asked.into_iter().enumerate() {
        placed.entry(whom(&asked)).or_default().push((place, asked));
    }
    placed
}

/// Answers by their places, together every place there is.
fn in_order<A>(answers: Vec<impl Iterator<Item = (usize, A)>>) -> Vec<A> {
    let mut answers: Vec<(usize, A)> = answers.into_iter().flatten().collect();
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// What is open in lanes of several owners.
fn together(found: Vec<OpenFound>) -> OpenFound {
    let nothing = OpenFound {
        list: Stretch {
            items: Vec::new(),
            end: None,
        },
        due_read: Vec::new(),
        stored: None,
    };
    found.into_iter().fold(nothing, |all, found| OpenFound {
        list: all.list.merge(found.list),
        due_read: [all.due_read, found.due_read].concat(),
        stored: joined(all.stored, found.stored),
    })
}

/// A list without the part of a lane that nobody answers for would be wrong.
fn moving() -> Status {
    Status::unavailable("a lane of this list has no owner just now; try again in a second")
}

fn unanswered(status: Status) -> Status {
    let why = status.message();
    Status::unavailable(format!(
        "a lane's owner didn't answer for this list ({why})"
    ))
}
