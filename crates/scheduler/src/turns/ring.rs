//! Members that take turns.

/// Members in the order of their keys, one of which has its turn after the other.
#[derive(Debug)]
pub(super) struct Ring<K, T> {
    members: Vec<(K, T)>,
    /// Whose turn is next; `None` before the first one.
    next: Option<usize>,
}

impl<K, T> Default for Ring<K, T> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            next: None,
        }
    }
}

impl<K: Ord + Copy, T> Ring<K, T> {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member of this key, which is made if there is none. Cheap where keys come in their order.
    pub(super) fn entry(&mut self, key: K, make: impl FnOnce() -> T) -> &mut T {
        let place = match self.members.last() {
            Some((last, _)) if *last == key => self.members.len() - 1,
            Some((last, _)) if *last > key => self.members.partition_point(|(k, _)| *k < key),
            _ => self.members.len(),
        };
        if self.members.get(place).is_none_or(|(k, _)| *k != key) {
            self.members.insert(place, (key, make()));
            // Nobody's turn comes twice for that.
            if let Some(next) = self.next.as_mut().filter(|next| place < **next) {
                *next += 1;
            }
        }
        &mut self.members[place].1
    }

    /// The member whose turn it is. The first one is the one that follows `last`.
    pub(super) fn turn(&mut self, last: impl FnOnce() -> Option<K>) -> Option<(K, &mut T)> {
        let after = |key| self.members.partition_point(|(k, _)| *k <= key);
        let next = self.next.unwrap_or_else(|| last().map_or(0, after));
        let next = if next < self.members.len() { next } else { 0 };
        self.next = Some(next + 1);
        self.members.get_mut(next).map(|(key, of)| (*key, of))
    }

    /// The member that just had its turn.
    pub(super) fn current(&mut self) -> Option<&mut T> {
        let place = self.next?.checked_sub(1)?;
        self.members.get_mut(place).map(|(_, of)| of)
    }

    /// The member that just had its turn has it again.
    pub(super) fn stay(&mut self) {
        self.next = self.next.map(|next| next.saturating_sub(1));
    }

    /// The member that just had its turn leaves; its turn is the next one's.
    pub(super) fn leave(&mut self) -> Option<T> {
        self.stay();
        let place = self.next.filter(|place| *place < self.members.len())?;
        Some(self.members.remove(place).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(keys: &[u32]) -> Ring<u32, ()> {
        let mut ring = Ring::default();
        for key in keys {
            ring.entry(*key, || ());
        }
        ring
    }

    fn turns(ring: &mut Ring<u32, ()>, last: u32, count: usize) -> Vec<u32> {
        let keys = (0..count).filter_map(|_| ring.turn(|| Some(last)).map(|(key, ())| key));
        keys.collect()
    }

    #[test]
    fn it_goes_on_after_whoever_was_last_even_if_he_is_gone() {
        assert_eq!(turns(&mut ring(&[3, 1, 2]), 1, 4), [2, 3, 1, 2]);
        assert_eq!(turns(&mut ring(&[1, 4]), 2, 3), [4, 1, 4]);
        assert_eq!(turns(&mut ring(&[1, 4]), 9, 3), [1, 4, 1]);
    }

    #[test]
    fn who_leaves_or_comes_costs_nobody_a_turn() {
        let mut ring = ring(&[1, 2, 3, 5]);
        assert_eq!(turns(&mut ring, 0, 2), [1, 2]);
        ring.leave();
        ring.entry(0, || ());
        ring.entry(4, || ());
        assert_eq!(turns(&mut ring, 0, 5), [3, 4, 5, 0, 1]);
        ring.stay();
        assert_eq!(turns(&mut ring, 0, 2), [1, 3]);
    }
}
