use domain::LaneId;
use rustc_hash::FxHashMap;

use super::Effects;
use crate::group::side::{Held, Side};

impl Effects {
    /// Sets right what the plan of a batch that wasn't committed changed of the lanes' sides: in the
    /// opposite order.
    pub(in crate::group) fn undo(&self, sides: &mut FxHashMap<LaneId, Side>, group: usize) {
        for claimed in &self.claimed {
            let id = claimed.known.id;
            if let Some(side) = sides.get_mut(&id.lane()) {
                side.held.remove(&id.seq());
                side.heads.insert(id.seq(), claimed.known.clone());
            }
        }
        for (known, _) in &self.accepted {
            if let Some(side) = sides.get_mut(&known.id.lane()) {
                side.heads.take(known.id.seq());
            }
        }
        for revised in &self.revised {
            if let Some(side) = sides.get_mut(&revised.known.id.lane()) {
                side.heads.take(revised.known.id.seq());
            }
        }
        for ended in &self.ended {
            let id = ended.known.id;
            if let Some(side) = sides.get_mut(&id.lane()) {
                side.heads.take(id.seq());
                let slot = ended.session.as_ref().map(|session| session.take(group));
                let slot = slot.map(|slot| slot.of_suspect(ended.class.suspect));
                let held = Held::new(slot, ended.known.clone());
                side.held.insert(id.seq(), held);
            }
        }
        for cancelled in &self.cancelled {
            if let super::CancelledNow::Told { id, .. } = cancelled
                && let Some(side) = sides.get_mut(&id.lane())
                && let Some(held) = side.held.get_mut(&id.seq())
            {
                held.cancelled = None;
            }
        }
    }
}
