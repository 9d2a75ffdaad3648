//! What can be done, a file each.

mod dev;
mod get;
mod submit;
mod trace;
mod watch;

pub(crate) use dev::dev;
pub(crate) use get::get;
pub(crate) use submit::submit;
pub(crate) use trace::trace;
pub(crate) use watch::watch;
