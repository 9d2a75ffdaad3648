//! What can be done, a file each.

mod cancel;
mod dev;
mod get;
mod list;
mod revise;
mod submit;
mod trace;
mod watch;
mod workers;

pub(crate) use cancel::cancel;
pub(crate) use dev::dev;
pub(crate) use get::get;
pub(crate) use list::list;
pub(crate) use revise::{Revision, revise, revise_dead_letters};
pub(crate) use submit::submit;
pub(crate) use trace::trace;
pub(crate) use watch::watch;
pub(crate) use workers::{drain_worker, list_workers};
