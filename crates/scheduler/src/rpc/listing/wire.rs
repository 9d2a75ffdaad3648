//! What schedulers ask each other about lists, as messages.

use std::sync::Arc;

use domain::lane::{DueMark, Wait};
use domain::{ExecutionState, Hour, LaneId, ListMark, Micros, Stretch};
use proto::internal::v1 as message;
use tonic::Status;

use crate::group::{InMemory, Open, OpenFound, OpenList, Sought};

/// Another version of a scheduler, or none at all.
pub(super) fn nonsense() -> Status {
    Status::unavailable("a lane's owner gave an answer that makes no sense")
}

fn mark_message(mark: ListMark) -> message::ListMark {
    message::ListMark {
        unix_us: mark.at.0,
        lane: u32::from(mark.lane.0),
        seq: mark.seq,
    }
}

fn mark(mark: message::ListMark) -> ListMark {
    ListMark {
        at: Micros(mark.unix_us),
        lane: lane(mark.lane),
        seq: mark.seq,
    }
}

fn lane(number: u32) -> LaneId {
    LaneId(u16::try_from(number).unwrap_or(u16::MAX))
}

fn numbers(numbers: &[i32]) -> Vec<u32> {
    let number = |number: &i32| u32::try_from(*number).unwrap_or(0);
    numbers.iter().map(number).collect()
}

fn stored(numbers: &[u32]) -> Vec<i32> {
    let number = |number: &u32| i32::try_from(*number).unwrap_or(0);
    numbers.iter().map(number).collect()
}

fn state(number: i32) -> Option<ExecutionState> {
    ExecutionState::from_number(i16::try_from(number).ok()?)
}

pub(super) fn open_request(list: &OpenList, lanes: &[LaneId]) -> message::ListOpenRequest {
    message::ListOpenRequest {
        tenant: u32::try_from(list.tenant).unwrap_or(0),
        queues: numbers(&list.queues),
        lanes: lanes.iter().map(|lane| u32::from(lane.0)).collect(),
        states: list.states.iter().map(|state| *state as i32).collect(),
        job_types: numbers(list.job_types.as_deref().unwrap_or_default()),
        before: Some(mark_message(list.before)),
        limit: u32::try_from(list.limit).unwrap_or(u32::MAX),
    }
}

pub(super) fn open_list(
    request: message::ListOpenRequest,
) -> Result<(OpenList, Vec<LaneId>), Status> {
    let states = request.states.iter().map(|number| state(*number));
    let job_types = stored(&request.job_types);
    let list = OpenList {
        tenant: i32::try_from(request.tenant).unwrap_or(0),
        queues: stored(&request.queues),
        states: states.collect::<Option<_>>().ok_or_else(nonsense)?,
        job_types: (!job_types.is_empty()).then_some(job_types),
        before: request.before.map(mark).ok_or_else(nonsense)?,
        limit: request.limit.max(1) as usize,
    };
    let lanes = request.lanes.iter().map(|number| lane(*number)).collect();
    Ok((list, lanes))
}

pub(super) fn open_response(found: OpenFound) -> message::ListOpenResponse {
    let open = |(mark, open): &(ListMark, Open)| message::OpenExecution {
        mark: Some(mark_message(*mark)),
        home_hour: open.home.0,
        located: Some(located(&open.memory)),
    };
    let read = |(lane, read): &(LaneId, DueMark)| {
        let (at, lane, seq) = (read.due, *lane, read.seq);
        mark_message(ListMark { at, lane, seq })
    };
    message::ListOpenResponse {
        executions: found.list.items.iter().map(open).collect(),
        end: found.list.end.map(mark_message),
        due_read: found.due_read.iter().map(read).collect(),
        stored: found.stored.map(|(since, until)| message::TimeRange {
            since_unix_us: since.0,
            until_unix_us: until.0,
        }),
    }
}

pub(super) fn open_found(response: message::ListOpenResponse) -> Result<OpenFound, Status> {
    let open = |open: message::OpenExecution| {
        let (home, memory) = (Hour(open.home_hour), in_memory(&open.located?));
        Some((mark(open.mark?), Open { home, memory }))
    };
    let items = response.executions.into_iter().map(open);
    let read = |read: message::ListMark| {
        let (due, seq) = (Micros(read.unix_us), read.seq);
        (lane(read.lane), DueMark { due, seq })
    };
    Ok(OpenFound {
        list: Stretch {
            items: items.collect::<Option<_>>().ok_or_else(nonsense)?,
            end: response.end.map(mark),
        },
        due_read: response.due_read.into_iter().map(read).collect(),
        stored: (response.stored)
            .map(|times| (Micros(times.since_unix_us), Micros(times.until_unix_us))),
    })
}

pub(super) fn sought_message(sought: &Sought) -> message::Sought {
    let wait = sought
        .waits
        .map(|(wait, _)| ExecutionState::from(wait) as i32);
    message::Sought {
        lane: u32::from(sought.lane.0),
        seq: sought.seq,
        state: wait.unwrap_or_default(),
        due_unix_us: sought.waits.map_or(0, |(_, due)| due.0),
        queued_unix_us: sought.queued.0,
    }
}

pub(super) fn sought(sought: &message::Sought) -> Sought {
    let wait = state(sought.state).and_then(Wait::of);
    Sought {
        lane: lane(sought.lane),
        seq: sought.seq,
        waits: wait.map(|wait| (wait, Micros(sought.due_unix_us))),
        queued: Micros(sought.queued_unix_us),
    }
}

/// What lists show of it.
pub(super) fn located(memory: &InMemory) -> message::Located {
    let (state, since, fence, attempt) = match memory {
        InMemory::Queued { since } => (ExecutionState::Queued as i32, since.0, 0, 0),
        InMemory::Running {
            fence,
            attempt,
            claimed,
            ..
        } => (ExecutionState::Running as i32, claimed.0, *fence, *attempt),
        InMemory::Timed { wait } => (ExecutionState::from(*wait) as i32, 0, 0, 0),
        InMemory::Unknown => (0, 0, 0, 0),
    };
    message::Located {
        state,
        since_unix_us: since,
        fence,
        attempt: u32::from(attempt),
    }
}

pub(super) fn in_memory(located: &message::Located) -> InMemory {
    let since = Micros(located.since_unix_us);
    match state(located.state) {
        Some(ExecutionState::Queued) => InMemory::Queued { since },
        Some(ExecutionState::Running) => InMemory::Running {
            fence: located.fence,
            attempt: u16::try_from(located.attempt).unwrap_or(u16::MAX),
            worker: Arc::from(""),
            claimed: since,
            queued_us: 0,
            cancelled: false,
            progress: None,
        },
        Some(state) => match Wait::of(state) {
            Some(wait) => InMemory::Timed { wait },
            None => InMemory::Unknown,
        },
        None => InMemory::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lists_show_of_memory_survives_the_way_between_schedulers() {
        let since = Micros(1_790_000_000_000_001);
        let running = InMemory::Running {
            fence: 1 << 60,
            attempt: 1_000,
            worker: Arc::from("worker-1"),
            claimed: since,
            queued_us: 5,
            cancelled: true,
            progress: None,
        };
        let InMemory::Running {
            fence,
            attempt,
            claimed,
            ..
        } = in_memory(&located(&running))
        else {
            panic!("it runs")
        };
        assert_eq!((fence, attempt, claimed), (1 << 60, 1_000, since));
        let queued = in_memory(&located(&InMemory::Queued { since }));
        assert!(matches!(queued, InMemory::Queued { since: told } if told == since));
        for wait in [Wait::Scheduled, Wait::Retrying] {
            let timed = in_memory(&located(&InMemory::Timed { wait }));
            assert!(matches!(timed, InMemory::Timed { wait: told } if told == wait));
        }
        let unknown = in_memory(&located(&InMemory::Unknown));
        assert!(matches!(unknown, InMemory::Unknown));
    }

    #[test]
    fn what_is_sought_survives_too() {
        let due = Micros(1_790_000_000_000_001);
        for waits in [
            None,
            Some((Wait::Scheduled, due)),
            Some((Wait::Retrying, due)),
        ] {
            let asked = Sought {
                lane: LaneId(4_095),
                seq: (1 << 44) - 1,
                waits,
                queued: Micros(7),
            };
            let told = sought(&sought_message(&asked));
            assert_eq!((told.lane, told.seq), (asked.lane, asked.seq));
            assert_eq!((told.waits, told.queued), (waits, Micros(7)));
        }
    }

    #[test]
    fn a_list_that_is_asked_for_is_the_list_that_is_answered() {
        let before = ListMark {
            at: Micros(9),
            lane: LaneId(2),
            seq: 5,
        };
        let list = OpenList {
            tenant: 3,
            queues: vec![4, 5],
            states: vec![ExecutionState::Queued, ExecutionState::Running],
            job_types: Some(vec![6]),
            before,
            limit: 501,
        };
        let (told, lanes) = open_list(open_request(&list, &[LaneId(1), LaneId(2)])).unwrap();
        assert_eq!(format!("{told:?}"), format!("{list:?}"));
        assert_eq!(lanes, [LaneId(1), LaneId(2)]);
        let (told, _) = open_list(open_request(
            &OpenList {
                job_types: None,
                ..list
            },
            &[],
        ))
        .unwrap();
        assert_eq!(told.job_types, None);
    }
}
