//! Whose turn it is: weighted over the priorities; within a priority tenants take equal turns, within a
//! tenant its queues, within a queue its lines. So who has more lines gets no more for it.

mod ring;
mod strict;

use domain::lane::{Class, Round};
use domain::{LaneId, Priority};
use rustc_hash::FxHashMap;

use crate::dispatch::Candidate;
use ring::Ring;
use strict::HeldBack;

/// More places than this and the order begins anew: nobody may fill the memory with queues.
const MOST: usize = 100_000;

/// Lines of a queue differ by these.
type LineKey = (i32, bool, LaneId);
type Lines = Ring<LineKey, Candidate>;
type Queues = Ring<i32, Lines>;
type Tenants = Ring<i32, Queues>;

/// Who had a turn last. It stays from batch to batch, so that turns go round even if there is one slot
/// at a time. A hint, like the round over the priorities that is part of it.
#[derive(Default)]
pub(crate) struct TurnOrder {
    round: Round,
    tenants: [Option<i32>; Priority::ALL.len()],
    queues: FxHashMap<(Priority, i32), i32>,
    lines: FxHashMap<(Priority, i32), LineKey>,
}

/// The lines that have work for somebody, as they take turns in one batch.
pub(crate) struct Turns<'a> {
    order: &'a mut TurnOrder,
    rings: [Tenants; Priority::ALL.len()],
    strict: FxHashMap<i32, HeldBack>,
    /// The line whose turn it is, and the round before it was.
    current: Option<(Class, LaneId, Round)>,
}

/// Why a line has no more turns in a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaves {
    /// Nothing is left in it.
    Empty,
    /// Something waits in it: for room, or to be read.
    Waiting,
}

impl<'a> Turns<'a> {
    /// Turns of these lines. Of a queue that `is_strict`, a line has its turns once those of higher
    /// priority are empty, or with sessions that could run none of them.
    pub(crate) fn new(
        order: &'a mut TurnOrder,
        mut candidates: Vec<Candidate>,
        is_strict: impl Fn(i32) -> bool,
    ) -> Self {
        order.forget_if_many();
        let mut turns = Self {
            order,
            rings: Default::default(),
            strict: FxHashMap::default(),
            current: None,
        };
        candidates.sort_unstable_by_key(|candidate| (candidate.class, candidate.lane));
        for candidate in candidates {
            let queue = candidate.class.queue;
            match is_strict(queue) {
                true => turns.strict.entry(queue).or_default().add(candidate),
                false => turns.enter(candidate),
            }
        }
        let queues: Vec<i32> = turns.strict.keys().copied().collect();
        queues.into_iter().for_each(|queue| turns.release(queue));
        turns
    }

    /// The line whose turn it is.
    pub(crate) fn next(&mut self) -> Option<&Candidate> {
        let (rings, order) = (&mut self.rings, &mut *self.order);
        let before = order.round.clone();
        let priority = order.round.next(|p| !rings[place(p)].is_empty())?;
        let ring = &mut rings[place(priority)];
        let (tenant, queues) = ring.turn(|| order.tenants[place(priority)])?;
        let (queue, lines) = queues.turn(|| order.queues.get(&(priority, tenant)).copied())?;
        let (_, line) = lines.turn(|| order.lines.get(&(priority, queue)).copied())?;
        self.current = Some((line.class, line.lane, before));
        Some(line)
    }

    /// The line whose turn it is got something: the next turn is another's, in later batches too.
    pub(crate) fn served(&mut self) {
        let Some((class, lane, _)) = self.current.take() else {
            return;
        };
        let Class {
            tenant,
            queue,
            priority,
            job_type,
            suspect,
        } = class;
        let order = &mut *self.order;
        order.tenants[place(priority)] = Some(tenant);
        order.queues.insert((priority, tenant), queue);
        order
            .lines
            .insert((priority, queue), (job_type, suspect, lane));
    }

    /// The line that just had its turn has no more. A turn that came to nothing is not counted: another
    /// line of its queue has it, or of its tenant, or of its priority.
    pub(crate) fn leave(&mut self, priority: Priority, why: Leaves) {
        let served = self.current.is_none();
        if let Some((_, _, before)) = self.current.take() {
            self.order.round = before;
        }
        let Some(left) = self.take_out(priority, served) else {
            return;
        };
        let queue = left.class.queue;
        if let Some(held_back) = self.strict.get_mut(&queue) {
            let waiting = (why == Leaves::Waiting).then_some(&left.sessions);
            held_back.leave(waiting);
            self.release(queue);
        }
    }

    /// Takes the line that just had its turn out of its rings, and with it those that are empty then.
    fn take_out(&mut self, priority: Priority, served: bool) -> Option<Candidate> {
        let tenants = &mut self.rings[place(priority)];
        let queues = tenants.current()?;
        let lines = queues.current()?;
        let left = lines.leave();
        match lines.is_empty() {
            true => drop(queues.leave()),
            false if !served => queues.stay(),
            false => {}
        }
        match queues.is_empty() {
            true => drop(tenants.leave()),
            false if !served => tenants.stay(),
            false => {}
        }
        left
    }

    fn release(&mut self, queue: i32) {
        let held_back = self.strict.get_mut(&queue);
        for line in held_back.map(HeldBack::release).unwrap_or_default() {
            self.enter(line);
        }
    }

    fn enter(&mut self, candidate: Candidate) {
        let Class {
            tenant,
            queue,
            priority,
            job_type,
            suspect,
        } = candidate.class;
        let queues = self.rings[place(priority)].entry(tenant, Ring::default);
        let lines = queues.entry(queue, Ring::default);
        lines.entry((job_type, suspect, candidate.lane), || candidate);
    }
}

impl TurnOrder {
    fn forget_if_many(&mut self) {
        if self.queues.len() + self.lines.len() > MOST {
            self.queues.clear();
            self.lines.clear();
        }
    }
}

fn place(priority: Priority) -> usize {
    priority as usize - 1
}

#[cfg(test)]
mod tests;
