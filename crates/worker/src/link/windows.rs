/// The windows of `schedulers` schedulers: the slots split evenly among them, what is left over to
/// the ones from `turn` on, so that not every worker favours the same. With fewer slots than
/// schedulers some get none, until it is their turn.
pub(super) fn split(slots: u32, schedulers: u32, turn: u32) -> Vec<u32> {
    let Some(even) = slots.checked_div(schedulers) else {
        return Vec::new();
    };
    let left_over = slots % schedulers;
    let place = |index: u32| (index + schedulers - turn % schedulers) % schedulers;
    (0..schedulers)
        .map(|index| even + u32::from(place(index) < left_over))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_slots_are_given_and_the_remainder_begins_at_the_turn() {
        assert_eq!(split(8, 1, 3), [8]);
        assert_eq!(split(8, 3, 0), [3, 3, 2]);
        assert_eq!(split(8, 3, 2), [3, 2, 3]);
        assert_eq!(split(1, 3, 7), [0, 1, 0]);
        assert!(split(5, 0, 1).is_empty());
    }

    #[test]
    fn with_fewer_slots_than_schedulers_each_has_its_turn() {
        let given: Vec<u32> = (0..4)
            .flat_map(|turn| {
                let windows = split(2, 4, turn);
                assert_eq!(windows.iter().sum::<u32>(), 2);
                windows
                    .into_iter()
                    .enumerate()
                    .filter(|(_, w)| *w == 1)
                    .map(|(i, _)| i as u32)
                    .collect::<Vec<_>>()
            })
            .collect();
        for scheduler in 0..4 {
            assert_eq!(given.iter().filter(|one| **one == scheduler).count(), 2);
        }
    }
}
