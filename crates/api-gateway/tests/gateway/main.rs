//! A whole gateway on real sockets, between real clients and scripted schedulers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod admission;
mod cancelling;
mod crowding;
mod draining;
mod fleet;
mod keyed;
mod listing;
mod reading;
mod revising;
mod running_gateway;
mod scripted_scheduler;
mod submitting;
mod trace_context;
mod watching;
