use std::collections::BTreeMap;
use std::time::Instant;

use domain::{ExecutionId, LaneId};
use prost::Message;
use proto::v1;
use proto::v1::SettlementVerdict as Verdict;
use proto::v1::work_request::Message as Request;

use super::Link;
use super::held::Held;
use super::peers::{PeerId, Peers};
use super::schedulers::{SchedulerRef, Schedulers};
use super::way::Way;

/// Results of one message, or checkpoints: schedulers take 4 MiB.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;

impl Link {
    /// Sends the results that are due, those to one scheduler together. What can't be sent now is
    /// tried again at a later tick.
    pub(super) fn send_results(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut parcels: BTreeMap<PeerId, Vec<v1::Result>> = BTreeMap::new();
        for id in self.outgoing.drain(..) {
            let Some(held) = self.holdings.get_mut(id) else {
                continue;
            };
            let Some(peer) = route(&self.schedulers, &self.peers, id.lane(), held.origin) else {
                continue;
            };
            let Some(unsettled) = held.unsettled_mut() else {
                continue;
            };
            parcels
                .entry(peer)
                .or_default()
                .push(unsettled.report.to_wire(now));
            unsettled.way.note_sent(peer, now);
        }
        for (peer, results) in parcels {
            self.send_parcel(peer, results, now);
        }
    }

    /// Sends results in messages that are not too large.
    fn send_parcel(&mut self, peer: PeerId, results: Vec<v1::Result>, now: Instant) {
        let (mut message, mut bytes) = (Vec::with_capacity(results.len()), 0);
        for result in results {
            let size = result.encoded_len();
            if bytes + size > MAX_MESSAGE_BYTES && bytes > 0 {
                self.send_message(peer, std::mem::take(&mut message), now);
                bytes = 0;
            }
            bytes += size;
            message.push(result);
        }
        self.send_message(peer, message, now);
    }

    fn send_message(&mut self, peer: PeerId, results: Vec<v1::Result>, now: Instant) {
        if self.peers.has_room(peer) {
            self.peers
                .send(peer, Request::Results(v1::Results { results }));
            return;
        }
        for result in results {
            let id = ExecutionId::from_slice(&result.execution_id);
            let held = id.and_then(|id| self.holdings.exact_mut(id, result.fence));
            if let Some(unsettled) = held.and_then(Held::unsettled_mut) {
                unsettled.way.take_back(now);
            }
        }
    }

    /// Who takes a lane's results: its owner, or while that is unknown or out of reach whoever
    /// handed the task out.
    pub(super) fn route(&self, lane: LaneId, origin: SchedulerRef) -> Option<PeerId> {
        route(&self.schedulers, &self.peers, lane, origin)
    }

    /// What became of results. The verdict of a scheduler that has lost the lane since counts for nothing: it may rest
    /// on rows that the database has lost with its tail, and the new owner, who was told of the result, waits for it.
    pub(super) fn settle(
        &mut self,
        (from, by): (PeerId, SchedulerRef),
        settlements: &[v1::Settlement],
    ) {
        for settlement in settlements {
            let Some(id) = ExecutionId::from_slice(&settlement.execution_id) else {
                continue;
            };
            if self.schedulers.is_strange_to(id.lane(), by) {
                self.ask_owner(from, id, settlement.fence);
                continue;
            }
            match settlement.verdict() {
                Verdict::Recorded | Verdict::Stale => self.holdings.settle(id, settlement.fence),
                Verdict::NotOwner => self.ask_owner(from, id, settlement.fence),
                // A verdict that later versions bring settles nothing: it is sent again in time.
                Verdict::Unspecified => {}
            }
        }
    }

    /// Sends a result to the lane's owner, at once if that is somebody else than who declined it,
    /// else when there may be a newer view.
    fn ask_owner(&mut self, declined_by: PeerId, id: ExecutionId, fence: u64) {
        let Some(held) = self.holdings.exact_mut(id, fence) else {
            return;
        };
        let peer = route(&self.schedulers, &self.peers, id.lane(), held.origin);
        let elsewhere = peer.is_some_and(|peer| peer != declined_by);
        let Some(unsettled) = held.unsettled_mut() else {
            return;
        };
        if unsettled
            .way
            .note_declined(declined_by, elsewhere, Instant::now())
        {
            self.outgoing.push(id);
        }
    }

    /// Takes up again what nothing has been heard of.
    pub(super) fn resend_what_is_late(&mut self, now: Instant) {
        self.take_up(|_, way| way.due <= now);
    }

    /// Takes up again what went to a session which is over.
    pub(super) fn resend_what_went_to(&mut self, peer: PeerId) {
        self.take_up(|_, way| way.sent_to == Some(peer));
    }

    /// Takes up what somebody else has to decide now than who has it.
    pub(super) fn resend_what_moved(&mut self) {
        let owners: BTreeMap<_, _> = self
            .peers
            .standing()
            .map(|(peer, scheduler)| (scheduler, peer))
            .collect();
        let schedulers = std::mem::take(&mut self.schedulers);
        self.take_up(|lane, way| {
            let owner = schedulers.owner(lane).and_then(|owner| owners.get(&owner));
            owner.is_some() && owner != way.sent_to.as_ref()
        });
        self.schedulers = schedulers;
    }

    /// Takes up results and checkpoints. If one can't be sent now, every tick tries.
    fn take_up(&mut self, which: impl Fn(LaneId, &Way) -> bool) {
        let now = Instant::now();
        self.unsaved.take_up(&which, now);
        for (id, held) in self.holdings.iter_mut() {
            let Some(unsettled) = held.unsettled_mut() else {
                continue;
            };
            if which(id.lane(), &unsettled.way) {
                unsettled.way.due = now;
                self.outgoing.push(id);
            }
        }
    }
}

fn route(
    schedulers: &Schedulers,
    peers: &Peers,
    lane: LaneId,
    origin: SchedulerRef,
) -> Option<PeerId> {
    let owner = schedulers.owner(lane);
    owner
        .and_then(|owner| peers.with(owner))
        .or_else(|| peers.with(origin))
}
