//! `watchwork.submit()` on a real PostgreSQL: what a transaction hands in, its keys, its limits and rights.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod days;
mod keys;
mod limits;
mod rights;
mod same_as_rust;
mod shop;
mod transactions;
#[path = "../lanes/world.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the tests of lanes use more of it"
)]
mod world;
