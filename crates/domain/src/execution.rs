/// How urgent an execution is. The numbers are stored and are proto's: never renamed, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Priority {
    /// Before everything else that is waiting.
    Critical = 1,
    /// Before normal.
    High = 2,
    /// The default.
    Normal = 3,
    /// After everything else, but never starved.
    Low = 4,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The priority of a stored or proto number; 0 is normal.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Critical),
            2 => Some(Self::High),
            0 | 3 => Some(Self::Normal),
            4 => Some(Self::Low),
            _ => None,
        }
    }

    /// As metrics and people name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// How many of fifteen free slots it gets while all four have work waiting: 8, 4, 2, 1.
    #[must_use]
    pub fn weight(self) -> u32 {
        1 << (4 - self as u32)
    }
}

/// Where an execution stands. The numbers are proto's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExecutionState {
    /// Its time has not come.
    Scheduled = 2,
    /// Waits for a free slot.
    Queued = 3,
    /// Claimed; its outcome is not recorded yet.
    Running = 4,
    /// Waits for its next attempt's time.
    Retrying = 5,
    /// Final.
    Succeeded = 6,
    /// Final: not retryable.
    Failed = 7,
    /// Final: a budget is spent.
    DeadLettered = 8,
    /// Final: somebody cancelled it.
    Cancelled = 9,
}

impl ExecutionState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::DeadLettered,
        Self::Cancelled,
    ];

    /// The state of a stored or proto number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i16 == number)
    }

    /// As people name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Retrying => "RETRYING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::DeadLettered => "DEAD_LETTERED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Whether only a person can change it from here.
    #[must_use]
    pub fn is_final(self) -> bool {
        FinalState::from_number(self as u64).is_some()
    }
}

/// How an execution ended for good.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FinalState {
    /// Its handler succeeded.
    Succeeded = 6,
    /// Its handler said that trying again is useless.
    Failed = 7,
    /// A budget is spent.
    DeadLettered = 8,
    /// Somebody cancelled it.
    Cancelled = 9,
}

impl FinalState {
    /// The final state of a stored number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            6 => Some(Self::Succeeded),
            7 => Some(Self::Failed),
            8 => Some(Self::DeadLettered),
            9 => Some(Self::Cancelled),
            _ => None,
        }
    }
}

impl From<FinalState> for ExecutionState {
    fn from(state: FinalState) -> Self {
        match state {
            FinalState::Succeeded => Self::Succeeded,
            FinalState::Failed => Self::Failed,
            FinalState::DeadLettered => Self::DeadLettered,
            FinalState::Cancelled => Self::Cancelled,
        }
    }
}

/// How one attempt ended. The numbers are stored and are proto's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttemptResult {
    /// The handler returned without an error.
    Success = 1,
    /// The handler returned an error.
    Error = 2,
    /// The handler panicked.
    Panic = 3,
    /// It ran longer than its timeout.
    Timeout = 4,
    /// It was stopped, or never begun, because somebody cancelled the execution.
    Cancelled = 5,
    /// The worker's lease ran out.
    Lost = 6,
    /// The worker handed it back: it shuts down, or was asked to before it began.
    Returned = 7,
    /// The handler put it off.
    Snoozed = 8,
}

impl AttemptResult {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::Error,
        Self::Panic,
        Self::Timeout,
        Self::Cancelled,
        Self::Lost,
        Self::Returned,
        Self::Snoozed,
    ];

    /// The result of a stored or proto number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|result| *result as i32 == number)
    }

    /// As `execution_attempts_total` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Returned => "returned",
            Self::Snoozed => "snoozed",
        }
    }
}

/// Why an execution is in its state. The numbers are stored and are proto's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Nothing more to say.
    None = 0,
    /// The handler's error.
    HandlerError = 1,
    /// The handler's panic.
    Panic = 2,
    /// The attempt's timeout.
    Timeout = 3,
    /// The worker was lost.
    WorkerLost = 4,
    /// `max_attempts` is spent.
    AttemptsExhausted = 5,
    /// `max_lost` is spent.
    Poison = 6,
    /// The handler said that the error can't be retried.
    NotRetryable = 7,
    /// The worker handed it back.
    Returned = 8,
    /// Somebody cancelled it.
    Cancelled = 9,
    /// Its handler put it off.
    Snoozed = 10,
    /// Its total time is over.
    TotalTimeout = 11,
    /// Somebody had it run again.
    Redriven = 12,
    /// Somebody took it out of the dead letters.
    Discarded = 13,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::None,
        Self::HandlerError,
        Self::Panic,
        Self::Timeout,
        Self::WorkerLost,
        Self::AttemptsExhausted,
        Self::Poison,
        Self::NotRetryable,
        Self::Returned,
        Self::Cancelled,
        Self::Snoozed,
        Self::TotalTimeout,
        Self::Redriven,
        Self::Discarded,
    ];

    /// The reason of a stored number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| *reason as i16 == number)
    }
}

/// Lost workers that make a suspect. The first may be any accident, and all that ran there runs again at once, as
/// after a machine that failed; whoever was there the second time too, may have done it.
const SUSPECT_FROM: u16 = 2;

/// What an execution has used up so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Budgets {
    /// Attempts that ended with the handler's own failure.
    pub attempts: u16,
    /// Attempts that ended with the worker's loss.
    pub lost: u16,
}

impl Budgets {
    /// The same after one attempt more.
    #[must_use]
    pub fn with_attempt(self) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            ..self
        }
    }

    /// Whether it is a suspect: it lost as many workers as only bad luck or its own doing explain.
    #[must_use]
    pub fn is_suspect(self) -> bool {
        self.lost >= SUSPECT_FROM
    }
}
