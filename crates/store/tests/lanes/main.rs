//! Lanes on a real PostgreSQL: fences, take-over, windows, and everything through its rows.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod admission;
mod checkpoints;
mod fences;
mod inbox;
mod keys;
mod later;
mod recovery;
mod stored;
mod turnover;
mod windows;
mod world;
