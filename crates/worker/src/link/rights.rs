use std::collections::HashMap;
use std::time::Instant;

use domain::LaneId;

use super::schedulers::{Handover, SchedulerRef, Schedulers};

/// Until when the worker may run what it holds.
///
/// Each answered heartbeat gives a lease with the scheduler that answered. What a lane's owner
/// handed out may run while the lease with the owner lasts. A new owner waits for one whole lease
/// before it gives work to somebody else, so a lane that changes hands keeps the right that it had.
#[derive(Default)]
pub(super) struct Rights {
    leases: HashMap<SchedulerRef, Instant>,
    /// What lanes brought along from earlier owners.
    carried: HashMap<LaneId, Instant>,
}

impl Rights {
    /// A scheduler answered: the lease with it lasts until then.
    pub(super) fn extend(&mut self, scheduler: SchedulerRef, until: Instant) {
        let lease = self.leases.entry(scheduler).or_insert(until);
        *lease = until.max(*lease);
    }

    /// Until when the lease with one scheduler lasts; `None`: there never was one.
    pub(super) fn lease(&self, scheduler: SchedulerRef) -> Option<Instant> {
        self.leases.get(&scheduler).copied()
    }

    /// A lane has another owner.
    pub(super) fn hand_over(&mut self, handover: Handover) {
        let right = self
            .under(handover.from)
            .max(self.carried.get(&handover.lane).copied());
        if let Some(right) = right {
            self.carried.insert(handover.lane, right);
        }
    }

    /// Until when the executions of a lane may run. `None`: no right but the one that came with
    /// the task.
    pub(super) fn lane(&self, lane: LaneId, schedulers: &Schedulers) -> Option<Instant> {
        self.under(schedulers.owner(lane))
            .max(self.carried.get(&lane).copied())
    }

    /// With no owner nobody extends a right: whoever answers may not know yet of the next one, who waits
    /// for what the last one answered.
    fn under(&self, owner: Option<SchedulerRef>) -> Option<Instant> {
        owner.and_then(|owner| self.lease(owner))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::v1;

    use super::*;

    const LANE: LaneId = LaneId(0);

    fn own(schedulers: &mut Schedulers, rights: &mut Rights, owner: u32) {
        let address = |id: &str| v1::SchedulerAddress {
            scheduler_id: id.to_owned(),
            address: String::new(),
        };
        let view = v1::ClusterView {
            schedulers: vec![address("a"), address("b")],
            lane_owners: vec![owner],
            lane_epochs: Vec::new(),
        };
        for handover in schedulers.update(view, None) {
            rights.hand_over(handover);
        }
    }

    #[test]
    fn a_lane_that_changes_hands_keeps_its_right_and_only_the_new_owner_extends_it() {
        let (mut schedulers, mut rights) = (Schedulers::default(), Rights::default());
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        own(&mut schedulers, &mut rights, 1);
        let (a, b) = (schedulers.refer("a"), schedulers.refer("b"));

        rights.extend(a, after(30));
        assert_eq!(rights.lane(LANE, &schedulers), Some(after(30)));
        own(&mut schedulers, &mut rights, 2);
        assert_eq!(rights.lane(LANE, &schedulers), Some(after(30)));
        rights.extend(a, after(40));
        assert_eq!(
            rights.lane(LANE, &schedulers),
            Some(after(30)),
            "a has no say any more"
        );
        rights.extend(b, after(50));
        assert_eq!(rights.lane(LANE, &schedulers), Some(after(50)));
    }

    #[test]
    fn a_lane_without_an_owner_keeps_its_right_and_no_answer_extends_it() {
        let (mut schedulers, mut rights) = (Schedulers::default(), Rights::default());
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        own(&mut schedulers, &mut rights, 1);
        let (a, b) = (schedulers.refer("a"), schedulers.refer("b"));
        rights.extend(a, after(30));
        own(&mut schedulers, &mut rights, 0);
        rights.extend(a, after(40));
        rights.extend(b, after(50));
        assert_eq!(rights.lane(LANE, &schedulers), Some(after(30)));
    }
}
