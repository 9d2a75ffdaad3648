use std::collections::HashMap;

use domain::LaneId;
use proto::v1;

/// A scheduler that has been heard of, by a number of our own: small, and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SchedulerRef(usize);

/// Who is there and owns what, by the newest word.
#[derive(Default)]
pub(super) struct Schedulers {
    refs: HashMap<String, SchedulerRef>,
    /// The live ones and where they are reached.
    addresses: Vec<(SchedulerRef, String)>,
    owners: Vec<Option<SchedulerRef>>,
}

/// A lane that changed hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Handover {
    pub(super) lane: LaneId,
    pub(super) from: Option<SchedulerRef>,
    pub(super) to: Option<SchedulerRef>,
}

impl Schedulers {
    /// The reference of a scheduler's id.
    pub(super) fn refer(&mut self, id: &str) -> SchedulerRef {
        if let Some(known) = self.refs.get(id) {
            return *known;
        }
        let new = SchedulerRef(self.refs.len());
        self.refs.insert(id.to_owned(), new);
        new
    }

    /// Who owns a lane; `None` if nobody does, as far as is known.
    pub(super) fn owner(&self, lane: LaneId) -> Option<SchedulerRef> {
        self.owners.get(usize::from(lane.0)).copied().flatten()
    }

    /// The live ones and where they are reached.
    pub(super) fn addresses(&self) -> &[(SchedulerRef, String)] {
        &self.addresses
    }

    /// Takes in a newer view; tells which lanes changed hands.
    pub(super) fn update(&mut self, view: v1::ClusterView) -> Vec<Handover> {
        self.addresses = view
            .schedulers
            .into_iter()
            .map(|scheduler| (self.refer(&scheduler.scheduler_id), scheduler.address))
            .collect();
        let owner_of = |number: &u32| {
            let index = usize::try_from(*number).ok()?.checked_sub(1)?;
            self.addresses.get(index).map(|(scheduler, _)| *scheduler)
        };
        let owners: Vec<_> = view.lane_owners.iter().map(owner_of).collect();
        let before = std::mem::replace(&mut self.owners, owners);
        let lanes = before.len().max(self.owners.len());
        (0..lanes)
            .filter_map(|index| u16::try_from(index).ok().map(LaneId))
            .map(|lane| Handover {
                lane,
                from: before.get(usize::from(lane.0)).copied().flatten(),
                to: self.owner(lane),
            })
            .filter(|handover| handover.from != handover.to)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ids: &[&str], lane_owners: &[u32]) -> v1::ClusterView {
        let schedulers = ids
            .iter()
            .map(|id| v1::SchedulerAddress {
                scheduler_id: (*id).to_owned(),
                address: format!("http://{id}"),
            })
            .collect();
        v1::ClusterView {
            schedulers,
            lane_owners: lane_owners.to_vec(),
        }
    }

    #[test]
    fn a_view_tells_owners_by_place_and_a_newer_one_which_lanes_moved() {
        let mut schedulers = Schedulers::default();
        schedulers.update(view(&["a", "b"], &[1, 2, 0]));
        let (a, b) = (schedulers.refer("a"), schedulers.refer("b"));
        assert_eq!(schedulers.owner(LaneId(0)), Some(a));
        assert_eq!(schedulers.owner(LaneId(2)), None);
        assert_eq!(schedulers.owner(LaneId(9)), None);

        let moved = schedulers.update(view(&["b"], &[1, 1, 7]));
        assert_eq!(
            moved,
            [Handover {
                lane: LaneId(0),
                from: Some(a),
                to: Some(b)
            }]
        );
        assert_eq!(schedulers.addresses(), [(b, "http://b".to_owned())]);
    }
}
