//! The worker against scripted schedulers: real servers on real sockets, whose every word the test
//! decides.

#[cfg(test)]
mod attempts;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod handlers;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod prefetch;
#[cfg(test)]
mod results;
#[cfg(test)]
mod scheduler;
#[cfg(test)]
mod suspects;
mod take_back;
#[cfg(test)]
mod windows;
#[cfg(test)]
mod worker;
