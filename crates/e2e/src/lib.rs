//! The real binaries at work: what the main job and the end-to-end tests share.

mod handing_in;
mod ledger;
mod log;
pub mod main_job;
mod python;
mod rig;
mod tracker;
mod until;
mod work;

pub use handing_in::{HandedIn, hand_in, hand_in_each};
pub use ledger::Ledger;
pub use log::{count_events, events, until_logged};
pub use python::{python_with, run_to_end, say_skipped};
pub use rig::{Rig, UnderWay};
pub use tracker::{Counts, Seen, Tracker};
pub use until::until;
pub use work::{retry_policy, submission};
