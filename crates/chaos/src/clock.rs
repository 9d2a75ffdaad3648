//! The one clock of all logs: on one machine it is the same for all processes, and nobody sets it.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A time, or a time span, in microseconds.
pub type Micros = i64;

/// Goes on while the machine sleeps, as the database's clock does.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The time since the machine started.
#[must_use]
pub(crate) fn now() -> Micros {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(CLOCK);
    tv_sec * 1_000_000 + tv_nsec / 1_000
}

/// What is to be taken off a time since 1970, such as the database's, to have it by [`now`].
#[must_use]
pub(crate) fn since_1970() -> Micros {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(wall.as_micros()).unwrap_or(i64::MAX) - now()
}
