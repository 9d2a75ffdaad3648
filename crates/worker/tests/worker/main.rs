//! The worker against scripted schedulers: real servers on real sockets, whose every word the test
//! decides.

mod attempts;
mod commands;
mod drain;
mod handlers;
mod leases;
mod results;
mod scheduler;
mod windows;
mod worker;
