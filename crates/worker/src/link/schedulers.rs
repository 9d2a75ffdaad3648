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
    lanes: Vec<Lane>,
}

/// A lane's owner, and the number of its lease.
#[derive(Clone, Copy, Default)]
struct Lane {
    owner: Option<SchedulerRef>,
    epoch: u64,
}

impl Lane {
    /// Whether what is known is to be believed more than what `by` says: that this is the owner under the
    /// lease of this number.
    fn knows_better(
        self,
        epoch: u64,
        owner: Option<SchedulerRef>,
        by: Option<SchedulerRef>,
    ) -> bool {
        let is_hearsay = by.is_none() || (by != owner && by != self.owner);
        epoch < self.epoch || (epoch == self.epoch && is_hearsay)
    }
}

/// A lane that changed hands, or came anew to those it was in.
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
        self.lanes.get(usize::from(lane.0))?.owner
    }

    /// Whether a scheduler is in no place to judge over a lane: as far as is known, another one owns it, or nobody.
    pub(super) fn is_strange_to(&self, lane: LaneId, scheduler: SchedulerRef) -> bool {
        self.owner(lane) != Some(scheduler)
    }

    /// The number of a lane's lease; 0 if it isn't known.
    pub(super) fn epoch(&self, lane: LaneId) -> u64 {
        let lane = self.lanes.get(usize::from(lane.0));
        lane.map_or(0, |lane| lane.epoch)
    }

    /// The live ones and where they are reached.
    pub(super) fn addresses(&self) -> &[(SchedulerRef, String)] {
        &self.addresses
    }

    /// Takes in another view, that of one of the schedulers; tells which lanes changed hands. About a lane of
    /// which it knows an older lease than is known here it is not believed, since views come from several
    /// schedulers. Whether the owner has given a lane up under its lease, or has it again, it alone can say.
    pub(super) fn update(
        &mut self,
        view: v1::ClusterView,
        by: Option<SchedulerRef>,
    ) -> Vec<Handover> {
        self.addresses = view
            .schedulers
            .into_iter()
            .map(|scheduler| (self.refer(&scheduler.scheduler_id), scheduler.address))
            .collect();
        let owner_of = |number: &u32| {
            let index = usize::try_from(*number).ok()?.checked_sub(1)?;
            self.addresses.get(index).map(|(scheduler, _)| *scheduler)
        };
        let told = view.lane_owners.iter().enumerate().map(|(place, owner)| {
            let epoch = view.lane_epochs.get(place).copied();
            (place, owner_of(owner), epoch)
        });
        let mut handovers = Vec::new();
        for (place, to, epoch) in told.collect::<Vec<_>>() {
            if self.lanes.len() <= place {
                self.lanes.resize(place + 1, Lane::default());
            }
            let known = &mut self.lanes[place];
            if epoch.is_some_and(|epoch| known.knows_better(epoch, to, by)) {
                continue;
            }
            let epoch = epoch.unwrap_or(known.epoch);
            let before = std::mem::replace(known, Lane { owner: to, epoch });
            let from = before.owner;
            let has_changed = from != to || before.epoch != epoch;
            if let Some(lane) = u16::try_from(place).ok().filter(|_| has_changed) {
                let lane = LaneId(lane);
                handovers.push(Handover { lane, from, to });
            }
        }
        handovers
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
            lane_epochs: Vec::new(),
        }
    }

    #[test]
    fn a_view_that_knows_an_older_lease_of_a_lane_is_not_believed_about_it() {
        let mut schedulers = Schedulers::default();
        let told = |owners: &[u32], epochs: &[u64]| v1::ClusterView {
            lane_epochs: epochs.to_vec(),
            ..view(&["a", "b"], owners)
        };
        schedulers.update(told(&[1, 1], &[4, 4]), None);
        let (a, b) = (schedulers.refer("a"), schedulers.refer("b"));
        schedulers.update(told(&[2, 1], &[5, 4]), None);
        let moved = schedulers.update(told(&[1, 2], &[4, 5]), None);
        let lane = LaneId(1);
        let (from, to) = (Some(a), Some(b));
        assert_eq!(moved, [Handover { lane, from, to }]);
        assert_eq!(
            schedulers.owner(LaneId(0)),
            Some(b),
            "it is older about this one"
        );
    }

    #[test]
    fn who_has_a_lane_under_a_new_lease_is_told_anew_what_is_held_of_it() {
        let mut schedulers = Schedulers::default();
        let told = |epoch: u64| v1::ClusterView {
            lane_epochs: vec![epoch],
            ..view(&["a"], &[1])
        };
        let (lane, a) = (LaneId(0), Some(schedulers.refer("a")));
        assert_eq!(schedulers.update(told(4), a).len(), 1);
        assert_eq!(
            (schedulers.update(told(4), a), schedulers.epoch(lane)),
            (vec![], 4)
        );
        let again = [Handover {
            lane,
            from: a,
            to: a,
        }];
        assert_eq!(schedulers.update(told(5), a), again);
        assert_eq!(schedulers.epoch(lane), 5);
    }

    #[test]
    fn that_a_lane_was_given_up_or_is_had_again_under_its_lease_only_the_owner_can_say() {
        let mut schedulers = Schedulers::default();
        let told = |owner: u32| v1::ClusterView {
            lane_epochs: vec![4],
            ..view(&["a", "b"], &[owner])
        };
        let (a, b) = (schedulers.refer("a"), schedulers.refer("b"));
        let owner = |schedulers: &Schedulers| schedulers.owner(LaneId(0));
        schedulers.update(told(1), Some(b));
        assert_eq!(owner(&schedulers), Some(a), "nothing else is known");
        schedulers.update(told(0), Some(b));
        assert_eq!(owner(&schedulers), Some(a), "b may have seen it late");
        schedulers.update(told(0), Some(a));
        schedulers.update(told(1), Some(b));
        assert_eq!(owner(&schedulers), None, "b has not heard yet");
        schedulers.update(told(1), Some(a));
        assert_eq!(owner(&schedulers), Some(a));
    }

    #[test]
    fn a_view_tells_owners_by_place_and_a_newer_one_which_lanes_moved() {
        let mut schedulers = Schedulers::default();
        schedulers.update(view(&["a", "b"], &[1, 2, 0]), None);
        let (a, b) = (schedulers.refer("a"), schedulers.refer("b"));
        assert_eq!(schedulers.owner(LaneId(0)), Some(a));
        assert_eq!(schedulers.owner(LaneId(2)), None);
        assert_eq!(schedulers.owner(LaneId(9)), None);

        let moved = schedulers.update(view(&["b"], &[1, 1, 7]), None);
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
