//! How many executions may wait: limits of queues and tenants, as far as one lane group can tell.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use domain::LaneId;
use domain::lane::Lane;
use rustc_hash::FxHashMap;
use store::Options;

use super::input::{Incoming, NotTaken};

/// Lanes and what is set of queues and tenants: what limits go by.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) lanes: &'a BTreeMap<LaneId, Lane>,
    pub(super) options: &'a Options,
}

/// How many wait where that is limited, those of this batch included.
#[derive(Default)]
pub(super) struct Depths {
    queues: FxHashMap<(LaneId, i32), u64>,
    tenants: FxHashMap<i32, u64>,
}

/// A limit that a submission would exceed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DepthLimit {
    of: LimitOf,
    /// The queue's or the tenant's name.
    name: Arc<str>,
    /// How many wait.
    depth: u64,
    /// How many may.
    limit: u64,
}

/// What a limit is one of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LimitOf {
    /// A queue that has this many lanes, each of which has an even share of the limit.
    Queue { lane: LaneId, lanes: u64 },
    /// A tenant.
    Tenant,
}

impl Depths {
    /// Counts an item in, unless that exceeds a limit. What is due later doesn't wait in a line, and isn't
    /// limited.
    pub(super) fn admit(&mut self, limits: &Limits<'_>, item: &Incoming) -> Result<(), NotTaken> {
        let head = &item.work.head;
        if head.due.is_some() {
            return Ok(());
        }
        let queue = limits.options.queues.get(&head.queue);
        let queue = queue.and_then(|queue| queue.max_depth);
        let tenant = limits.options.tenant_depths.get(&head.tenant).copied();
        let of_queue = queue.map(|limit| {
            let lanes = (item.work.queue.lanes.len() as u64).max(1);
            let depth = self.queues.entry((item.lane, head.queue));
            let depth = depth.or_insert_with(|| limits.queue_depth(item.lane, head.queue));
            (limit, lanes, depth)
        });
        let of_tenant = tenant.map(|limit| {
            let depth = self.tenants.entry(head.tenant);
            (
                limit,
                depth.or_insert_with(|| limits.tenant_depth(head.tenant)),
            )
        });
        let refused = |of, name: &str, depth: u64, limit| {
            let name = Arc::from(name);
            Err(NotTaken::TooDeep(Box::new(DepthLimit {
                of,
                name,
                depth,
                limit,
            })))
        };
        if let Some((limit, lanes, depth)) = &of_queue
            && **depth >= limit.div_ceil(*lanes)
        {
            let lane = item.lane;
            let of = LimitOf::Queue {
                lane,
                lanes: *lanes,
            };
            return refused(of, &item.work.queue.name, **depth, *limit);
        }
        if let Some((limit, depth)) = &of_tenant
            && **depth >= *limit
        {
            return refused(LimitOf::Tenant, &item.work.tenant, **depth, *limit);
        }
        let depths = [
            of_queue.map(|(.., depth)| depth),
            of_tenant.map(|(_, depth)| depth),
        ];
        depths.into_iter().flatten().for_each(|depth| *depth += 1);
        Ok(())
    }
}

impl Limits<'_> {
    /// Whether an item of these might be refused, whichever of the others are taken.
    pub(super) fn may_refuse<'i>(&self, mut items: impl Iterator<Item = &'i Incoming>) -> bool {
        let limits = self.options;
        if limits.queues.is_empty() && limits.tenant_depths.is_empty() {
            return false;
        }
        let mut depths = Depths::default();
        items.any(|item| depths.admit(self, item).is_err())
    }

    fn queue_depth(&self, lane: LaneId, queue: i32) -> u64 {
        self.lanes.get(&lane).map_or(0, |lane| lane.depth(queue))
    }

    fn tenant_depth(&self, tenant: i32) -> u64 {
        let lines = self.lanes.values().flat_map(|lane| lane.waiting().lens());
        let own = lines.filter(|(class, _)| class.tenant == tenant);
        own.map(|(_, len)| len).sum()
    }
}

impl DepthLimit {
    /// The field of a submission that the limit goes by.
    pub(crate) fn field(&self) -> &'static str {
        match self.of {
            LimitOf::Queue { .. } => "queue",
            LimitOf::Tenant => "tenant",
        }
    }
}

impl fmt::Display for DepthLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, depth, limit, ..
        } = self;
        match self.of {
            LimitOf::Queue { lanes: 1, .. } => write!(
                f,
                "queue {name:?} is full: {depth} executions wait in it, and its max_depth is {limit}"
            )?,
            LimitOf::Queue { lane, lanes } => write!(
                f,
                "queue {name:?} is full in lane {lane}: {depth} executions wait there, and an even share of \
                 its max_depth of {limit} over {lanes} lanes is {}",
                limit.div_ceil(lanes)
            )?,
            LimitOf::Tenant => write!(
                f,
                "tenant {name:?} has too much waiting: {depth} executions, and its max_depth is {limit}"
            )?,
        }
        f.write_str(
            "; it was not taken: try again when some of them have begun, or raise max_depth",
        )
    }
}

#[cfg(test)]
mod tests;
