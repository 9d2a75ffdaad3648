//! What happened in a run, as four witnesses wrote it down: the clients, the handlers, whoever did the
//! damage, and the tables. Plain lines and rows, that know nothing of how the system works.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;
use crate::place::Place;

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What the installation was told.
    pub setting: Setting,
    /// What clients asked for and were told, in order.
    pub client: Vec<ClientLine>,
    /// What handlers did, in order.
    pub calls: Vec<CallLine>,
    /// What was done to whom.
    pub faults: Vec<Fault>,
    /// The executions that are stored.
    pub executions: Vec<ExecutionRow>,
    /// How their attempts ended.
    pub outcomes: Vec<OutcomeRow>,
    /// The lanes' chains.
    pub chain: Vec<ChainRow>,
}

/// What the promises depend on.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Setting {
    /// How long a worker keeps what it runs without an answered heartbeat.
    pub worker_lease_us: Micros,
}

/// One line of the client log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClientLine {
    /// When.
    pub at: Micros,
    /// The idempotency key, which is the correlation id too.
    pub key: String,
    /// What happened.
    #[serde(flatten)]
    pub said: Said,
}

/// What a client did or heard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Said {
    /// It is about to hand this in, for the first time or again.
    Asked,
    /// It was told that it is taken.
    Told {
        /// The execution's id.
        id: String,
        /// Where that is stored.
        execution: Place,
    },
    /// It was told something else, or nothing: whether it was taken is open.
    Failed {
        /// The error.
        why: String,
    },
}

/// One line of the workers' log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CallLine {
    /// When.
    pub at: Micros,
    /// Which execution.
    pub execution: Place,
    /// Under which fence.
    pub fence: u64,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The worker's name.
    pub worker: String,
    /// Its process.
    pub pid: u32,
    /// When that process began: process ids come again.
    pub incarnation: Micros,
    /// What happened.
    #[serde(flatten)]
    pub step: Step,
}

/// What a handler did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Step {
    /// It was called.
    Begin,
    /// It came to its end.
    End {
        /// Which.
        how: How,
    },
}

/// How a handler's call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is done.
    Success,
    /// It failed.
    Error,
    /// It put itself off.
    Snoozed,
    /// The worker broke it off.
    Dropped,
}

/// One line of the log of faults.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// What was done.
    pub kind: FaultKind,
    /// To whom: a process by its name, `database`, or a way such as `to scheduler-1`.
    pub target: String,
    /// Its process then, if it is one.
    pub pid: Option<u32>,
    /// When it began: before a signal was sent.
    pub begin: Micros,
    /// When it was over: the process has ended, or goes on; the way is clear.
    pub end: Micros,
    /// When the target was up again, if it had to be started.
    pub up: Option<Micros>,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// No fault: a process was started.
    Start,
    /// `kill -9`.
    Kill,
    /// SIGSTOP, and SIGCONT at the end.
    Pause,
    /// SIGTERM, and a start after its end.
    Terminate,
    /// It ended by itself: nobody had told it to.
    Exit,
    /// The database ended in order and was started again.
    Restart,
    /// The database was killed and started again.
    Crash,
    /// What is sent arrives later.
    Delay,
    /// What is sent is kept, and arrives when it is over.
    Stall,
    /// What is sent is lost, and nobody hears of it.
    Blackhole,
    /// The same, in one direction.
    HalfOpen,
    /// All connections are broken off (RST).
    Reset,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Start => "start",
            Self::Kill => "kill -9",
            Self::Pause => "pause",
            Self::Terminate => "SIGTERM",
            Self::Exit => "exit",
            Self::Restart => "restart",
            Self::Crash => "crash",
            Self::Delay => "delay",
            Self::Stall => "stall",
            Self::Blackhole => "blackhole",
            Self::HalfOpen => "half-open",
            Self::Reset => "reset",
        })
    }
}

/// A row of `execution`.
#[derive(Clone, PartialEq, Debug)]
pub struct ExecutionRow {
    /// Where it is.
    pub execution: Place,
    /// Its correlation id.
    pub key: String,
}

/// A row of `outcome`: how an attempt ended.
#[derive(Clone, PartialEq, Debug)]
pub struct OutcomeRow {
    /// Whose.
    pub execution: Place,
    /// The attempt's fence.
    pub fence: u64,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// How it ended.
    pub result: Ended,
    /// What that made of the execution.
    pub state: State,
    /// Who made it.
    pub worker: String,
    /// When it was given out, by the database's clock.
    pub claimed_at: Micros,
    /// When this was recorded, by the database's clock.
    pub at: Micros,
}

/// How an attempt ended, as the tables number it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// 1.
    Success,
    /// 2.
    Error,
    /// 3.
    Panic,
    /// 4.
    Timeout,
    /// 5.
    Cancelled,
    /// 6: the worker's lease ran out.
    Lost,
    /// 7: the worker handed it back.
    Returned,
    /// 8: the handler put it off.
    Snoozed,
    /// A number that isn't known here.
    Unknown(i16),
}

impl Ended {
    /// What a row's `result` says.
    #[must_use]
    pub fn from_number(number: i16) -> Self {
        const KNOWN: [Ended; 8] = [
            Ended::Success,
            Ended::Error,
            Ended::Panic,
            Ended::Timeout,
            Ended::Cancelled,
            Ended::Lost,
            Ended::Returned,
            Ended::Snoozed,
        ];
        let place = usize::try_from(number)
            .ok()
            .and_then(|it| it.checked_sub(1));
        let known = place.and_then(|place| KNOWN.get(place).copied());
        known.unwrap_or(Self::Unknown(number))
    }
}

/// An execution's state, as the tables number it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// 6 to 9: only a person can change it.
    Final(i16),
    /// All others.
    Open(i16),
}

impl State {
    /// What a row's `state` says.
    #[must_use]
    pub fn from_number(number: i16) -> Self {
        match number {
            6..=9 => Self::Final(number),
            _ => Self::Open(number),
        }
    }

    /// Whether only a person can change it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Final(_))
    }
}

/// A row of `chain`: one commit of a lane.
#[derive(Clone, PartialEq, Debug)]
pub struct ChainRow {
    /// Which lane.
    pub lane: i16,
    /// The row's number.
    pub n: i64,
    /// The number of the next one, if it is another than n + 1.
    pub jump_to: Option<i64>,
    /// How many executions had been accepted by then.
    pub submitted: i64,
    /// How many attempts had been given out.
    pub claimed: i64,
    /// How many executions had come to an end.
    pub finished: i64,
}
