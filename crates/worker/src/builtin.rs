//! The job types that the binary brings along.

mod command;
mod command_output;
mod count;
mod fail;
mod group_guard;
mod noop;
mod process_group;
mod sleep;

pub use command::{Command, CommandPayload};
pub use count::{Count, CountPayload};
pub use fail::{Fail, FailPayload};
pub use group_guard::GroupGuard;
pub use noop::Noop;
pub use sleep::{Sleep, SleepPayload};
