use crate::Priority;

/// Whose turn it is among the priorities: smooth weighted round robin (as nginx balances upstreams),
/// so that with work at all four, fifteen slots go 8 : 4 : 2 : 1 and none comes in a burst.
///
/// A hint: it is no part of the lane's durable state, and starts anew with each owner.
#[derive(Clone, Default, Debug)]
pub struct Round {
    current: [i64; Priority::ALL.len()],
}

impl Round {
    /// The priority whose turn it is among those for which `has_work` says yes.
    pub fn next(&mut self, has_work: impl Fn(Priority) -> bool) -> Option<Priority> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (place, priority) in Priority::ALL.into_iter().enumerate() {
            if !has_work(priority) {
                continue;
            }
            let weight = i64::from(priority.weight());
            total += weight;
            self.current[place] += weight;
            if best.is_none_or(|leader| self.current[place] > self.current[leader]) {
                best = Some(place);
            }
        }
        let place = best?;
        self.current[place] -= total;
        Some(Priority::ALL[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(turns: usize, has_work: impl Fn(Priority) -> bool + Copy) -> [usize; 4] {
        let mut round = Round::default();
        let mut shares = [0; 4];
        for _ in 0..turns {
            let priority = round.next(has_work).unwrap();
            shares[priority as usize - 1] += 1;
        }
        shares
    }

    #[test]
    fn fifteen_slots_are_shared_8_4_2_1() {
        assert_eq!(shares(15, |_| true), [8, 4, 2, 1]);
    }

    #[test]
    fn what_one_priority_does_not_need_goes_to_the_others() {
        let shares = shares(30, |p| p != Priority::Critical);
        assert_eq!(shares[0], 0);
        assert!(
            shares[1] > shares[2] && shares[2] > shares[3] && shares[3] >= 4,
            "{shares:?}"
        );
    }

    #[test]
    fn with_no_work_it_is_nobodys_turn() {
        assert_eq!(Round::default().next(|_| false), None);
    }
}
