//! The checker on histories that were broken by hand: it sees what is wrong, and nothing else.

mod story;

use chaos::{Ended, FaultKind, History, How, Place, Report, Said, Step, check};

use story::{
    BELATED, FIRST, FIRST_AGAIN, KILLED, MS, PAUSED, PLAIN, RETRIED, SECOND, SECOND_ONE, THIRD,
    asked, called, count, done_at_once, good, recorded, struck, told,
};

const ACKNOWLEDGED: &str = "every submission is acknowledged within a minute";
const STORED: &str = "what is acknowledged is stored, under the id that was told";
const ONE_KEY: &str = "a key gives one execution";
const MEANT: &str = "nothing is stored that no client meant";
const ONE_END: &str = "every execution has one final outcome, and no later one";
const ATTEMPTS: &str = "fences grow, and attempts count up by failures alone";
const IN_ORDER: &str = "an attempt is given out after the one before was closed";
const CALLED_ONCE: &str = "a fence is called once";
const CALLED_IN_ORDER: &str = "calls begin in the order of their fences, but after a pause";
const AS_CALLED: &str = "a recorded result is what the call with its fence did";
const ACCOUNTED: &str = "every call has its outcome in the tables";
const NO_TWO: &str = "no two calls of an execution overlap, but by a pause";
const AFTER_END: &str = "nothing is called after the end that is recorded, but after a pause";
const LOSSES: &str = "attempts are lost only to faults";
const PROCESSES: &str = "processes end only when they are told to";
const CHAIN: &str = "chain rows follow each other";
const TOTALS: &str = "the chains' totals are the rows, and nothing waits or runs";

/// A place that nobody is at.
const FREE: Place = Place { lane: 1, seq: 9 };

/// Breaks a good history, and expects these invariants to be violated and no others.
fn breaks(expected: &[&str], damage: impl FnOnce(&mut History)) {
    let mut history = good();
    damage(&mut history);
    let report = check(&history);
    assert_eq!(violated(&report), expected, "{report:#?}");
}

fn violated(report: &Report) -> Vec<&'static str> {
    let findings = report.findings.iter();
    let violated = findings.filter(|finding| !finding.violations.is_empty());
    violated.map(|finding| finding.invariant).collect()
}

#[test]
fn a_good_history_is_good_and_says_what_only_faults_explain() {
    let report = check(&good());
    assert_eq!(violated(&report), [""; 0], "{report:#?}");
    assert!(report.holds());
    let explained = |invariant| {
        let mut findings = report.findings.iter();
        let finding = findings.find(|finding| finding.invariant == invariant);
        finding.map(|finding| finding.explained)
    };
    assert_eq!(explained(NO_TWO), Some(1));
    assert_eq!(explained(CALLED_IN_ORDER), Some(1));
    assert_eq!(explained(AFTER_END), Some(1));
    assert_eq!(explained(LOSSES), Some(3));
}

#[test]
fn a_history_in_which_there_is_nothing_to_examine_is_not_good() {
    let report = check(&History::default());
    assert_eq!(violated(&report), [""; 0]);
    for finding in &report.findings {
        assert_eq!(finding.examined, 0, "{finding:?}");
        assert!(!finding.holds(), "{finding:?}");
    }
    let mut calm = good();
    calm.outcomes.retain(|row| row.result != Ended::Lost);
    let report = check(&calm);
    let losses = report.findings.iter().find(|it| it.invariant == LOSSES);
    assert!(losses.is_some_and(|losses| !losses.holds()));
}

#[test]
fn a_submission_that_nobody_answers() {
    breaks(&[ACKNOWLEDGED], |history| {
        history
            .client
            .retain(|line| line.key != "plain" || line.said == Said::Asked);
    });
}

#[test]
fn a_submission_that_is_answered_much_too_late() {
    breaks(&[ACKNOWLEDGED], |history| {
        let mut lines = history.client.iter_mut();
        let told = lines.find(|line| line.key == "plain" && line.said != Said::Asked);
        told.expect("it is told").at += 61 * SECOND;
    });
}

#[test]
fn an_acknowledged_execution_that_is_gone_without_a_trace() {
    breaks(&[STORED], |history| {
        history.executions.retain(|row| row.execution != PLAIN);
        history.outcomes.retain(|row| row.execution != PLAIN);
        history.calls.retain(|line| line.execution != PLAIN);
        count(history, 1, (-1, -1, -1));
    });
}

#[test]
fn a_key_that_was_taken_for_two() {
    breaks(&[ONE_KEY], |history| {
        done_at_once(history, FREE, "plain", 16)
    });
}

#[test]
fn an_answer_that_names_another_execution_than_the_first() {
    breaks(&[STORED, ONE_KEY], |history| {
        asked(history, "plain");
        told(history, "plain", RETRIED);
    });
}

#[test]
fn an_execution_that_nobody_handed_in() {
    breaks(&[MEANT], |history| {
        done_at_once(history, FREE, "nobody's", 16)
    });
}

#[test]
fn an_execution_that_never_ends() {
    breaks(&[ONE_END], |history| {
        history.outcomes.retain(|row| row.fence != 15);
        history.calls.retain(|line| line.fence != 15);
        count(history, 1, (0, -1, -1));
    });
}

#[test]
fn an_execution_that_goes_on_after_its_end() {
    breaks(&[ONE_END], |history| {
        let end = (Ended::Returned, 3, SECOND_ONE.0);
        recorded(history, PLAIN, (16, 2), end, (22 * MS, 23 * MS));
        count(history, 1, (0, 1, 0));
    });
}

#[test]
fn an_execution_that_ends_twice() {
    breaks(&[ONE_END], |history| {
        let end = (Ended::Lost, 8, FIRST.0);
        recorded(history, PLAIN, (16, 2), end, (SECOND, 5 * SECOND));
        count(history, 1, (0, 1, 1));
    });
}

#[test]
fn a_failure_that_costs_no_attempt() {
    breaks(&[ATTEMPTS], |history| {
        for row in history.outcomes.iter_mut().filter(|row| row.fence == 15) {
            row.attempt = 2;
        }
        for line in history.calls.iter_mut().filter(|line| line.fence == 15) {
            line.attempt = 2;
        }
    });
}

#[test]
fn a_fence_that_comes_again() {
    breaks(&[ATTEMPTS], |history| {
        let lost = (Ended::Lost, 3, FIRST.0);
        recorded(history, KILLED, (13, 1), lost, (5 * SECOND, 5 * SECOND));
        count(history, 1, (0, 1, 0));
    });
}

#[test]
fn an_attempt_that_is_given_out_while_another_is() {
    breaks(&[IN_ORDER], |history| {
        for row in history.outcomes.iter_mut().filter(|row| row.fence == 12) {
            row.claimed_at = 35 * MS;
        }
    });
}

#[test]
fn a_fence_that_is_called_twice() {
    breaks(&[CALLED_ONCE], |history| {
        let span = (25 * MS, Some((26 * MS, How::Success)));
        called(history, PLAIN, (10, 1), SECOND_ONE, span);
    });
}

#[test]
fn a_call_by_a_right_that_a_later_one_had_made_void() {
    breaks(&[CALLED_IN_ORDER], |history| {
        for line in &mut history.calls {
            match line.fence {
                11 => line.at += 20 * MS,
                12 => line.at -= 20 * MS,
                _ => {}
            }
        }
    });
}

#[test]
fn a_success_that_nobody_had() {
    breaks(&[AS_CALLED], |history| {
        history.calls.retain(|line| line.execution != PLAIN);
    });
}

#[test]
fn a_success_of_a_call_that_failed() {
    breaks(&[AS_CALLED], |history| {
        let ends = history.calls.iter_mut();
        for line in ends.filter(|line| line.fence == 15 && line.step != Step::Begin) {
            line.step = Step::End { how: How::Error };
        }
    });
}

#[test]
fn the_result_of_a_worker_that_had_lost_its_right() {
    // The late success of the one that slept is taken, instead of the one that was given out after it.
    breaks(&[ATTEMPTS, IN_ORDER, AS_CALLED, ACCOUNTED], |history| {
        for row in &mut history.outcomes {
            match row.fence {
                20 => (row.result, row.at) = (Ended::Success, 20 * SECOND),
                21 => row.worker = SECOND_ONE.0.to_owned(),
                _ => {}
            }
        }
    });
}

#[test]
fn a_call_that_the_tables_know_nothing_of() {
    breaks(&[ACCOUNTED], |history| {
        let span = (5 * MS, Some((6 * MS, How::Dropped)));
        called(history, PLAIN, (9, 1), THIRD, span);
    });
}

#[test]
fn two_calls_at_a_time_without_a_pause() {
    breaks(&[NO_TWO], |history| {
        let mut begins = history.calls.iter_mut();
        let second = begins.find(|line| line.fence == 12 && line.step == Step::Begin);
        second.expect("it begins").at = 35 * MS;
    });
}

#[test]
fn two_calls_at_a_time_long_after_a_pause() {
    breaks(&[NO_TWO], |history| {
        let mut pauses = history.faults.iter_mut();
        let pause = pauses.find(|it| it.kind == FaultKind::Pause && it.pid == Some(SECOND_ONE.1));
        pause.expect("it sleeps").end = 14 * SECOND;
    });
}

#[test]
fn two_calls_at_a_time_because_of_a_kill_that_killed_nobody() {
    breaks(&[NO_TWO], |history| {
        let mut kills = history.faults.iter_mut();
        let kill = kills.find(|fault| fault.kind == FaultKind::Kill);
        kill.expect("it is killed").pid = Some(FIRST_AGAIN.1 + 1);
    });
}

#[test]
fn a_call_after_the_end() {
    breaks(&[CALLED_IN_ORDER, AFTER_END], |history| {
        history
            .faults
            .retain(|fault| fault.kind != FaultKind::Pause || fault.pid != Some(THIRD.1));
        // What explains the loss all the same.
        struck(
            history,
            FaultKind::Kill,
            (THIRD.0, 0),
            (31 * SECOND, 32 * SECOND),
        );
    });
}

#[test]
fn a_claim_after_the_end() {
    breaks(&[ONE_END, AFTER_END], |history| {
        let right = (24, 2);
        let span = (38 * SECOND, Some((39 * SECOND, How::Dropped)));
        called(history, BELATED, right, FIRST_AGAIN, span);
        let back = (Ended::Returned, 3, FIRST_AGAIN.0);
        recorded(history, BELATED, right, back, (38 * SECOND, 39 * SECOND));
        count(history, 2, (0, 1, 0));
    });
}

#[test]
fn a_loss_without_a_fault() {
    breaks(&[LOSSES], |history| {
        let mut kills = history.faults.iter_mut();
        let kill = kills.find(|fault| fault.kind == FaultKind::Kill);
        // The process that died was another worker's.
        kill.expect("it is killed").target = THIRD.0.to_owned();
    });
}

#[test]
fn a_loss_that_is_explained_by_its_giver_only_if_it_never_arrived() {
    let hit = |execution| {
        move |history: &mut History| {
            let lost = (Ended::Lost, 3, SECOND_ONE.0);
            recorded(
                history,
                execution,
                (8, 1),
                lost,
                (-90 * SECOND, -80 * SECOND),
            );
            count(history, execution.lane, (0, 1, 0));
            let way = ("scheduler-1 to database", 0);
            struck(
                history,
                FaultKind::Blackhole,
                way,
                (-90 * SECOND, -85 * SECOND),
            );
        }
    };
    breaks(&[], hit(PLAIN));
    breaks(&[LOSSES], |history| {
        hit(PLAIN)(history);
        let span = (-90 * SECOND, Some((-89 * SECOND, How::Dropped)));
        called(history, PLAIN, (8, 1), SECOND_ONE, span);
    });
}

#[test]
fn a_loss_long_after_its_fault() {
    breaks(&[LOSSES], |history| {
        let lost = (Ended::Lost, 3, FIRST.0);
        recorded(history, PLAIN, (8, 1), lost, (-20 * SECOND, -10 * SECOND));
        count(history, 1, (0, 1, 0));
    });
}

#[test]
fn a_process_that_ends_by_itself() {
    breaks(&[PROCESSES], |history| {
        struck(
            history,
            FaultKind::Exit,
            ("scheduler-1", 7),
            (SECOND, SECOND),
        );
    });
}

#[test]
fn a_chain_that_lacks_a_row() {
    breaks(&[CHAIN], |history| {
        history.chain.remove(2);
    });
}

#[test]
fn a_chain_that_counts_back() {
    breaks(&[CHAIN], |history| history.chain[2].claimed = 1_000);
}

#[test]
fn a_chain_by_which_something_still_waits() {
    breaks(&[TOTALS], |history| count(history, PAUSED.lane, (1, 0, 0)));
}
