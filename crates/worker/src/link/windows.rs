/// What one scheduler wants of the worker, and has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Claim {
    /// How many tasks it could have under way; `None`: it has not said, and counts as wanting an
    /// even part.
    pub(super) demand: Option<u32>,
    /// How many it has.
    pub(super) under_way: u32,
}

/// The windows of the schedulers with these claims, in their order.
///
/// `room` is split by demand: nobody gets more than it asks for while another lacks. What is left
/// over then is spread evenly, so that who has nothing now can hand out at once when something
/// comes. Where that doesn't come out even, the ones from `turn` on get one more, so that not every
/// worker favours the same, and with less room than schedulers each has its turn.
///
/// Who has more under way than its part keeps the others waiting for the difference: windows, and
/// what is under way beyond them, are together no more than the room, or than what is under way
/// anyway.
pub(super) fn split(room: u32, claims: &[Claim], turn: u32) -> Vec<u32> {
    let met = fill(room, &demands(room, claims), turn);
    let spare = fill(room - total(&met), &vec![u32::MAX; claims.len()], turn);
    let parts = plus(&met, &spare);

    // What is free goes to those who lack, then to those who could do with more.
    let has: Vec<u32> = claims.iter().map(|claim| claim.under_way).collect();
    let free = room.saturating_sub(total(&has));
    let lack = less(&met, &has);
    let first = fill(free, &lack, turn);
    let more = less(&less(&parts, &has), &lack);
    let then = fill(free - total(&first), &more, turn);

    let reach = plus(&has, &plus(&first, &then));
    parts
        .into_iter()
        .zip(reach)
        .map(|(part, reach)| part.min(reach))
        .collect()
}

/// Whether the schedulers are told of windows other than those they know: if one changes by a tenth,
/// or to or from nothing, or if what is handed out beyond the slots comes to an end. All of them are
/// told then, since only together they are a split.
pub(super) fn is_worth_telling(told: &[u32], wanted: &[u32], slots: u32) -> bool {
    let is_large = |(told, wanted): (&u32, &u32)| {
        let (less, more) = (told.min(wanted), told.max(wanted));
        less < more && (*less == 0 || more - less >= more.div_ceil(10))
    };
    let prefetch_ends = total(told) > slots && total(wanted) <= slots;
    prefetch_ends || told.iter().zip(wanted).any(is_large)
}

/// What everybody asks for.
fn demands(room: u32, claims: &[Claim]) -> Vec<u32> {
    let even = room.div_ceil(count(claims).max(1));
    let demand = |claim: &Claim| claim.demand.unwrap_or(even);
    claims.iter().map(demand).collect()
}

/// As much for everybody as there is, and for nobody more than it wants.
fn fill(amount: u32, wants: &[u32], turn: u32) -> Vec<u32> {
    let level = level(amount, wants);
    let mut given: Vec<u32> = wants.iter().map(|want| *want.min(&level)).collect();
    let left = amount - total(&given);
    let turn = (turn % count(wants).max(1)) as usize;
    let from_turn = (turn..wants.len()).chain(0..turn);
    let lacking = from_turn.filter(|index| wants[*index] > level);
    for (index, _) in lacking.zip(0..left) {
        given[index] += 1;
    }
    given
}

/// The most that everybody can have who wants as much.
fn level(amount: u32, wants: &[u32]) -> u32 {
    let mut sorted = wants.to_vec();
    sorted.sort_unstable();
    let mut left = amount;
    for (want, sharing) in sorted.iter().zip((1..=count(wants)).rev()) {
        let even = left / sharing;
        if *want > even {
            return even;
        }
        left -= want;
    }
    u32::MAX
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

fn total(numbers: &[u32]) -> u32 {
    numbers.iter().copied().fold(0, u32::saturating_add)
}

fn plus(left: &[u32], right: &[u32]) -> Vec<u32> {
    let pairs = left.iter().zip(right);
    pairs
        .map(|(left, right)| left.saturating_add(*right))
        .collect()
}

/// Zero where it would be less.
fn less(left: &[u32], right: &[u32]) -> Vec<u32> {
    let pairs = left.iter().zip(right);
    pairs
        .map(|(left, right)| left.saturating_sub(*right))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asks(demand: u32) -> Claim {
        has(0, demand)
    }

    fn has(under_way: u32, demand: u32) -> Claim {
        Claim {
            demand: Some(demand),
            under_way,
        }
    }

    const SILENT: Claim = Claim {
        demand: None,
        under_way: 0,
    };

    #[test]
    fn with_no_demand_known_the_split_is_even_and_the_remainder_begins_at_the_turn() {
        assert_eq!(split(8, &[SILENT], 3), [8]);
        assert_eq!(split(8, &[SILENT; 3], 0), [3, 3, 2]);
        assert_eq!(split(8, &[SILENT; 3], 2), [3, 2, 3]);
        assert_eq!(split(1, &[SILENT; 3], 7), [0, 1, 0]);
        assert!(split(5, &[], 1).is_empty());
    }

    #[test]
    fn who_asks_for_more_gets_what_the_others_do_not_ask_for() {
        assert_eq!(split(8, &[asks(8), asks(0)], 0), [8, 0]);
        assert_eq!(split(8, &[asks(8), asks(8)], 0), [4, 4]);
        assert_eq!(split(8, &[asks(8), asks(1)], 0), [7, 1]);
        assert_eq!(
            split(8, &[asks(2), asks(0)], 0),
            [5, 3],
            "the rest is spread evenly"
        );
        assert_eq!(
            split(8, &[asks(8), SILENT], 0),
            [4, 4],
            "who has not said counts as even"
        );
        assert_eq!(
            split(1, &[asks(5), asks(1)], 1),
            [0, 1],
            "each has its turn"
        );
    }

    #[test]
    fn what_is_under_way_beyond_a_part_is_missing_elsewhere_until_it_ends() {
        assert_eq!(split(8, &[has(8, 8), asks(8)], 0), [4, 0]);
        assert_eq!(split(8, &[has(6, 8), asks(8)], 0), [4, 2]);
        assert_eq!(split(8, &[has(4, 8), asks(8)], 0), [4, 4]);
        let with_an_idle_one = [has(6, 6), asks(2), asks(0)];
        assert_eq!(
            split(8, &with_an_idle_one, 0),
            [6, 2, 0],
            "who lacks comes first"
        );
        assert_eq!(split(4, &[has(9, 9), has(1, 1)], 0), [3, 1]);
    }

    #[test]
    fn small_changes_wait() {
        assert!(!is_worth_telling(&[100, 50], &[95, 55], 200));
        assert!(is_worth_telling(&[100, 50], &[90, 60], 200));
        assert!(is_worth_telling(&[100, 0], &[99, 1], 200));
        assert!(is_worth_telling(&[4, 1], &[5, 0], 200));
        assert!(!is_worth_telling(&[5, 3], &[5, 3], 200));
        assert!(
            is_worth_telling(&[102], &[100], 100),
            "nothing beyond the slots any more"
        );
        assert!(!is_worth_telling(&[104], &[102], 100));
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let demand = prop_oneof![
            Just(None),
            Just(Some(0)),
            (0..50_u32).prop_map(Some),
            Just(Some(u32::MAX))
        ];
        let claim = (demand, 0..40_u32).prop_map(|(demand, under_way)| Claim { demand, under_way });
        prop::collection::vec(claim, 1..8)
    }

    fn idle(claims: &[Claim]) -> Vec<Claim> {
        let idle = |claim: &Claim| Claim {
            under_way: 0,
            ..*claim
        };
        claims.iter().map(idle).collect()
    }

    proptest! {
        #[test]
        fn no_more_than_the_room_is_promised(room in 0..120_u32, claims in claims(), turn: u32) {
            let windows = split(room, &claims, turn);
            let has: u32 = claims.iter().map(|claim| claim.under_way).sum();
            let at_most: u32 = windows.iter().zip(&claims).map(|(window, claim)| *window.max(&claim.under_way)).sum();
            prop_assert!(total(&windows) <= room);
            prop_assert!(at_most <= room.max(has), "{windows:?}");
        }

        #[test]
        fn who_has_less_than_its_part_grows_by_all_that_is_free(room in 0..120_u32, claims in claims(), turn: u32) {
            let windows = split(room, &claims, turn);
            let parts = split(room, &idle(&claims), turn);
            let has: u32 = claims.iter().map(|claim| claim.under_way).sum();
            let free = room.saturating_sub(has);
            let growth: u32 = windows.iter().zip(&claims).map(|(window, claim)| window.saturating_sub(claim.under_way)).sum();
            prop_assert_eq!(growth, free, "{:?} of {:?}", windows, parts);
            for (window, part) in windows.iter().zip(&parts) {
                prop_assert!(window <= part, "{windows:?} of {parts:?}");
            }
        }

        #[test]
        fn all_is_given_and_nobody_has_too_much_while_another_lacks(
            room in 0..120_u32, claims in claims(), turn: u32,
        ) {
            let claims = idle(&claims);
            let windows = split(room, &claims, turn);
            let wanted = demands(room, &claims);
            prop_assert_eq!(total(&windows), room);
            for (window, want) in windows.iter().zip(&wanted) {
                let lacks = window < want;
                for (other, other_want) in windows.iter().zip(&wanted) {
                    prop_assert!(!(lacks && other > other_want), "{windows:?} for {wanted:?}");
                    prop_assert!(!(lacks && *other > window + 1), "{windows:?} for {wanted:?}");
                }
            }
        }

        #[test]
        fn what_is_left_over_is_spread_evenly(
            wanted in prop::collection::vec(0..50_u32, 1..8), left_over in 0..60_u32, turn: u32,
        ) {
            let claims: Vec<Claim> = wanted.iter().copied().map(asks).collect();
            let windows = split(total(&wanted) + left_over, &claims, turn);
            let even = left_over / count(&wanted);
            for (window, want) in windows.iter().zip(&wanted) {
                prop_assert!((even..=even + 1).contains(&(window - want)), "{windows:?}");
            }
            prop_assert_eq!(total(&windows), total(&wanted) + left_over);
        }

        #[test]
        fn in_as_many_turns_as_there_are_schedulers_all_who_ask_alike_have_the_same(
            room in 0..120_u32, demand in 0..50_u32, count in 1..8_u32,
        ) {
            let claims = vec![asks(demand); count as usize];
            let mut sums = vec![0; claims.len()];
            for turn in 0..count {
                sums = plus(&sums, &split(room, &claims, turn));
            }
            prop_assert!(sums.iter().all(|sum| *sum == room), "{sums:?}");
        }
    }
}
