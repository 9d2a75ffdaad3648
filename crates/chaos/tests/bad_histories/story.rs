//! A short history in which everything went as promised, and faults as they may be.

use chaos::{
    CallLine, ChainRow, ClientLine, Ended, ExecutionRow, Fault, FaultKind, History, How, Micros,
    OutcomeRow, Place, Said, Setting, State, Step,
};

pub(crate) const MS: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000 * MS;

/// Done at once.
pub(crate) const PLAIN: Place = Place { lane: 1, seq: 1 };
/// Fails twice; its first acknowledgement is lost.
pub(crate) const RETRIED: Place = Place { lane: 1, seq: 2 };
/// Its first worker is killed.
pub(crate) const KILLED: Place = Place { lane: 1, seq: 3 };
/// Its first worker is paused while it runs.
pub(crate) const PAUSED: Place = Place { lane: 2, seq: 1 };
/// Its first worker is paused before it begins.
pub(crate) const BELATED: Place = Place { lane: 2, seq: 2 };

/// A process of a worker: its name and its id.
pub(crate) type Process = (&'static str, u32);
pub(crate) const FIRST: Process = ("worker-1", 101);
pub(crate) const FIRST_AGAIN: Process = ("worker-1", 102);
pub(crate) const SECOND_ONE: Process = ("worker-2", 201);
pub(crate) const THIRD: Process = ("worker-3", 301);

/// A right to run: fence and attempt.
pub(crate) type Right = (u64, u32);

pub(crate) fn asked(history: &mut History, key: &str) {
    say(history, key, Said::Asked);
}

pub(crate) fn told(history: &mut History, key: &str, execution: Place) {
    let id = format!("id-of-{execution}");
    say(history, key, Said::Told { id, execution });
}

fn say(history: &mut History, key: &str, said: Said) {
    let (at, key) = (history.client.len() as Micros, key.to_owned());
    history.client.push(ClientLine { at, key, said });
}

pub(crate) fn stored(history: &mut History, execution: Place, key: &str) {
    let key = key.to_owned();
    history.executions.push(ExecutionRow { execution, key });
}

/// A call from one time to another; without an end if its process dies.
pub(crate) fn called(
    history: &mut History,
    execution: Place,
    (fence, attempt): Right,
    (worker, pid): Process,
    (begin, end): (Micros, Option<(Micros, How)>),
) {
    let line = |at, step| CallLine {
        at,
        execution,
        fence,
        attempt,
        worker: worker.to_owned(),
        pid,
        incarnation: 0,
        step,
    };
    history.calls.push(line(begin, Step::Begin));
    if let Some((end, how)) = end {
        history.calls.push(line(end, Step::End { how }));
    }
}

/// An outcome, given out and recorded at these times.
pub(crate) fn recorded(
    history: &mut History,
    execution: Place,
    (fence, attempt): Right,
    (result, state, worker): (Ended, i16, &str),
    (claimed_at, at): (Micros, Micros),
) {
    history.outcomes.push(OutcomeRow {
        execution,
        fence,
        attempt,
        result,
        state: State::from_number(state),
        worker: worker.to_owned(),
        claimed_at,
        at,
    });
}

pub(crate) fn struck(
    history: &mut History,
    kind: FaultKind,
    (target, pid): Process,
    (begin, end): (Micros, Micros),
) {
    history.faults.push(Fault {
        kind,
        target: target.to_owned(),
        pid: Some(pid),
        begin,
        end,
        up: None,
    });
}

/// Adds to what the last row of a lane's chain says it has accepted, given out and ended.
pub(crate) fn count(history: &mut History, lane: i16, by: (i64, i64, i64)) {
    let mut rows = history.chain.iter_mut();
    let last = rows.rfind(|row| row.lane == lane).expect("a chain");
    last.submitted += by.0;
    last.claimed += by.1;
    last.finished += by.2;
}

/// An execution that is done at once, from its storage to its end; a client must have asked for it.
pub(crate) fn done_at_once(history: &mut History, execution: Place, key: &str, fence: u64) {
    let right = (fence, 1);
    stored(history, execution, key);
    let span = (10 * MS, Some((20 * MS, How::Success)));
    called(history, execution, right, SECOND_ONE, span);
    let end = (Ended::Success, 6, SECOND_ONE.0);
    recorded(history, execution, right, end, (9 * MS, 21 * MS));
    count(history, execution.lane, (1, 1, 1));
}

/// The whole of it.
pub(crate) fn good() -> History {
    let mut history = History {
        setting: Setting {
            worker_lease_us: 4 * SECOND,
        },
        ..History::default()
    };
    for (lane, n, jump_to) in [
        (1, 1, None),
        (1, 2, Some(1_000)),
        (1, 1_000, None),
        (1, 1_001, None),
        (2, 1, None),
        (2, 2, None),
    ] {
        history.chain.push(ChainRow {
            lane,
            n,
            jump_to,
            submitted: 0,
            claimed: 0,
            finished: 0,
        });
    }
    for process in [FIRST, FIRST_AGAIN, SECOND_ONE, THIRD] {
        struck(&mut history, FaultKind::Start, process, (0, 0));
    }
    asked(&mut history, "plain");
    told(&mut history, "plain", PLAIN);
    done_at_once(&mut history, PLAIN, "plain", 10);
    retried(&mut history);
    killed(&mut history);
    paused(&mut history);
    belated(&mut history);
    history
}

fn retried(history: &mut History) {
    asked(history, "retried");
    let why = "the connection broke".to_owned();
    say(history, "retried", Said::Failed { why });
    asked(history, "retried");
    told(history, "retried", RETRIED);
    stored(history, RETRIED, "retried");
    for (right, result, state, how, at) in [
        ((11, 1), Ended::Error, 5, How::Error, 30 * MS),
        ((12, 2), Ended::Error, 5, How::Error, 50 * MS),
        ((15, 3), Ended::Success, 6, How::Success, 70 * MS),
    ] {
        let span = (at, Some((at + 9 * MS, how)));
        called(history, RETRIED, right, SECOND_ONE, span);
        let outcome = (result, state, SECOND_ONE.0);
        recorded(history, RETRIED, right, outcome, (at, at + 10 * MS));
    }
    count(history, 1, (1, 3, 1));
}

fn killed(history: &mut History) {
    asked(history, "killed");
    told(history, "killed", KILLED);
    stored(history, KILLED, "killed");
    called(history, KILLED, (13, 1), FIRST, (SECOND, None));
    struck(
        history,
        FaultKind::Kill,
        FIRST,
        (SECOND + MS, SECOND + 2 * MS),
    );
    recorded(
        history,
        KILLED,
        (13, 1),
        (Ended::Lost, 3, FIRST.0),
        (SECOND, 5 * SECOND),
    );
    let span = (6 * SECOND, Some((6 * SECOND + MS, How::Success)));
    called(history, KILLED, (14, 1), FIRST_AGAIN, span);
    let end = (Ended::Success, 6, FIRST_AGAIN.0);
    recorded(history, KILLED, (14, 1), end, (6 * SECOND, 7 * SECOND));
    count(history, 1, (1, 2, 1));
}

/// Both run while one of them sleeps; what that one says when it wakes up isn't taken.
fn paused(history: &mut History) {
    asked(history, "paused");
    told(history, "paused", PAUSED);
    stored(history, PAUSED, "paused");
    let asleep = (10 * SECOND + MS, 20 * SECOND);
    let span = (10 * SECOND, Some((20 * SECOND + MS, How::Success)));
    called(history, PAUSED, (20, 1), SECOND_ONE, span);
    struck(history, FaultKind::Pause, SECOND_ONE, asleep);
    let lost = (Ended::Lost, 3, SECOND_ONE.0);
    recorded(history, PAUSED, (20, 1), lost, (10 * SECOND, 14 * SECOND));
    let span = (15 * SECOND, Some((16 * SECOND, How::Success)));
    called(history, PAUSED, (21, 1), FIRST_AGAIN, span);
    let end = (Ended::Success, 6, FIRST_AGAIN.0);
    recorded(history, PAUSED, (21, 1), end, (15 * SECOND, 17 * SECOND));
    count(history, 2, (1, 2, 1));
}

/// It wakes up and begins what it was given before, until it notices.
fn belated(history: &mut History) {
    asked(history, "belated");
    told(history, "belated", BELATED);
    stored(history, BELATED, "belated");
    struck(history, FaultKind::Pause, THIRD, (30 * SECOND, 40 * SECOND));
    let lost = (Ended::Lost, 3, THIRD.0);
    recorded(history, BELATED, (22, 1), lost, (30 * SECOND, 34 * SECOND));
    let span = (35 * SECOND, Some((36 * SECOND, How::Success)));
    called(history, BELATED, (23, 1), FIRST_AGAIN, span);
    let end = (Ended::Success, 6, FIRST_AGAIN.0);
    recorded(history, BELATED, (23, 1), end, (35 * SECOND, 37 * SECOND));
    let span = (40 * SECOND + MS, Some((40 * SECOND + 2 * MS, How::Dropped)));
    called(history, BELATED, (22, 1), THIRD, span);
    count(history, 2, (1, 2, 1));
}
