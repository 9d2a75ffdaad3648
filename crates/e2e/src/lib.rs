//! The real binaries at work: what the main job and the end-to-end tests share.

mod handing_in;
mod ledger;
pub mod main_job;
mod rig;
mod tracker;
mod work;

pub use handing_in::{HandedIn, hand_in, hand_in_each};
pub use ledger::Ledger;
pub use rig::{Rig, UnderWay};
pub use tracker::{Counts, Seen, Tracker};
pub use work::{retry_policy, submission};
