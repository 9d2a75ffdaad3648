use std::collections::BTreeMap;

use super::*;

const LANE: LaneId = LaneId(0);

fn candidate((tenant, queue, job_type): (i32, i32, i32), priority: Priority) -> Candidate {
    let class = Class {
        tenant,
        queue,
        priority,
        job_type,
        suspect: false,
    };
    Candidate {
        lane: LANE,
        class,
        sessions: [0].into(),
    }
}

fn for_sessions(line: Candidate, sessions: &[usize]) -> Candidate {
    Candidate {
        sessions: sessions.into(),
        ..line
    }
}

/// A backlog that never ends, served so many slots at a time: who got how many, by `key`.
fn served<K: Ord>(
    lines: &[(i32, i32, i32)],
    slots: usize,
    batches: usize,
    key: impl Fn(&Class) -> K,
) -> BTreeMap<K, usize> {
    let mut order = TurnOrder::default();
    let mut served = BTreeMap::new();
    for _ in 0..batches {
        let lines = lines.iter().map(|line| candidate(*line, Priority::Normal));
        for class in batch(&mut order, lines.collect(), slots) {
            *served.entry(key(&class)).or_default() += 1;
        }
    }
    served
}

/// One batch with so many free slots that any line could have, as a plan goes through it.
fn batch(order: &mut TurnOrder, lines: Vec<Candidate>, slots: usize) -> Vec<Class> {
    let mut turns = Turns::new(order, lines, |_| false);
    let mut served = Vec::new();
    while let Some(class) = turns.next().map(|candidate| candidate.class) {
        if served.len() < slots {
            served.push(class);
            turns.served();
        } else {
            turns.leave(class.priority, Leaves::Waiting);
        }
    }
    served
}

/// Tenant 1 has 500 lines in 5 queues, tenant 2 has one line.
fn many_against_one() -> Vec<(i32, i32, i32)> {
    let many = (0..500).map(|n| (1, n % 5, n));
    many.chain([(2, 9, 1)]).collect()
}

#[test]
fn a_tenant_with_500_lines_gets_as_much_as_one_with_a_single_line() {
    for (slots, batches) in [(1_000, 1), (1, 1_000), (3, 1_000)] {
        let served = served(&many_against_one(), slots, batches, |class| class.tenant);
        assert_eq!(served[&1], served[&2], "{slots} slots at a time");
    }
}

#[test]
fn queues_of_a_tenant_take_equal_turns_whatever_types_are_in_them() {
    let lines = [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 2, 1)];
    for (slots, batches) in [(600, 1), (1, 600), (7, 600)] {
        let served = served(&lines, slots, batches, |class| {
            (class.queue, class.job_type)
        });
        let of = |queue, job_type| served[&(queue, job_type)];
        let queue_1 = of(1, 1) + of(1, 2) + of(1, 3);
        assert!(queue_1.abs_diff(of(2, 1)) <= 1, "{served:?}");
        assert!(of(1, 1).abs_diff(of(1, 3)) <= 1, "{served:?}");
    }
}

#[test]
fn lines_of_one_queue_in_several_lanes_take_turns() {
    let mut order = TurnOrder::default();
    let mut lanes = Vec::new();
    for _ in 0..6 {
        let lines = (0..3).map(|lane| Candidate {
            lane: LaneId(lane),
            ..candidate((1, 1, 1), Priority::Normal)
        });
        let mut turns = Turns::new(&mut order, lines.collect(), |_| false);
        lanes.push(turns.next().unwrap().lane.0);
        turns.served();
    }
    assert_eq!(lanes, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn the_weights_hold_with_one_slot_at_a_time() {
    let mut order = TurnOrder::default();
    let mut served = [0; 4];
    for _ in 0..150 {
        let lines = Priority::ALL.map(|priority| candidate((1, 1, 1), priority));
        let class = batch(&mut order, lines.into(), 1)[0];
        served[place(class.priority)] += 1;
    }
    assert_eq!(served, [80, 40, 20, 10]);
}

#[test]
fn a_turn_that_came_to_nothing_is_another_lines_of_the_same_tenant() {
    let mut order = TurnOrder::default();
    let lines = [(1, 1, 1), (1, 1, 2), (2, 2, 1)];
    let lines = lines.map(|line| candidate(line, Priority::Normal));
    let mut turns = Turns::new(&mut order, lines.into(), |_| false);
    assert_eq!(turns.next().unwrap().class.job_type, 1);
    turns.leave(Priority::Normal, Leaves::Waiting);
    let next = turns.next().unwrap().class;
    assert_eq!((next.tenant, next.job_type), (1, 2));
    turns.served();
    assert_eq!(turns.next().unwrap().class.tenant, 2);
}

#[test]
fn a_line_without_work_leaves_the_round() {
    let mut order = TurnOrder::default();
    let lines = vec![candidate((1, 1, 1), Priority::High)];
    let mut turns = Turns::new(&mut order, lines, |_| false);
    turns.next().unwrap();
    turns.leave(Priority::High, Leaves::Empty);
    assert!(turns.next().is_none());
}

fn strict(order: &mut TurnOrder, lines: Vec<Candidate>) -> Turns<'_> {
    Turns::new(order, lines, |queue| queue == 1)
}

#[test]
fn a_strict_queues_lower_priority_waits_until_the_higher_is_empty() {
    let mut order = TurnOrder::default();
    let lines = vec![
        candidate((1, 1, 1), Priority::Low),
        candidate((1, 1, 1), Priority::High),
        candidate((1, 1, 2), Priority::High),
        candidate((1, 1, 3), Priority::Normal),
    ];
    let mut turns = strict(&mut order, lines);
    for _ in 0..20 {
        assert_eq!(turns.next().unwrap().class.priority, Priority::High);
        turns.served();
    }
    for priority in [
        Priority::High,
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ] {
        assert_eq!(turns.next().unwrap().class.priority, priority);
        turns.leave(priority, Leaves::Empty);
    }
    assert!(turns.next().is_none());
}

#[test]
fn what_waits_in_a_strict_queue_keeps_its_own_sessions_only() {
    let mut order = TurnOrder::default();
    let lines = vec![
        for_sessions(candidate((1, 1, 1), Priority::High), &[0, 1]),
        for_sessions(candidate((1, 1, 1), Priority::Normal), &[0, 1]),
        for_sessions(candidate((1, 1, 2), Priority::Low), &[1, 2]),
    ];
    let mut turns = strict(&mut order, lines);
    turns.next().unwrap();
    turns.leave(Priority::High, Leaves::Waiting);
    let low = turns.next().unwrap();
    assert_eq!(low.class.priority, Priority::Low);
    assert_eq!(*low.sessions, [2]);
    turns.leave(Priority::Low, Leaves::Empty);
    assert!(turns.next().is_none());
}

#[test]
fn a_strict_queue_holds_back_no_other() {
    let mut order = TurnOrder::default();
    let lines = vec![
        candidate((1, 1, 1), Priority::High),
        candidate((1, 2, 1), Priority::Low),
    ];
    let mut turns = strict(&mut order, lines);
    let mut queues: Vec<i32> = (0..9)
        .map(|_| {
            let queue = turns.next().unwrap().class.queue;
            turns.served();
            queue
        })
        .collect();
    queues.sort_unstable();
    queues.dedup();
    assert_eq!(queues, [1, 2]);
}
