//! Free ports of 127.0.0.1.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::Rng;

/// Below what Linux and macOS give to outgoing connections. A client that keeps calling a dead
/// member's port must not be given that very port as its own: it would keep the member from coming
/// back, or connect to itself.
const RANGE: std::ops::Range<u16> = 15_000..32_000;
const TRIES: usize = 200;

/// A port of 127.0.0.1 that nothing listens on and that was not handed out before in this process.
///
/// # Errors
/// No free port was found in many tries.
pub(crate) fn free() -> Result<u16> {
    static HANDED_OUT: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = rand::rng().random_range(RANGE);
        if is_free(port) && handed_out.insert(port) {
            return Ok(port);
        }
    }
    bail!(
        "no free port on 127.0.0.1 between {} and {}",
        RANGE.start,
        RANGE.end
    )
}

/// Whether nothing listens there now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
