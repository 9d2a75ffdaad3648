//! The contract in Rust: code generated from `proto/`, checked in and kept honest by a test.

/// `watchwork.v1`: what clients and workers speak.
pub mod v1 {
    include!("generated/watchwork.v1.rs");
}

/// What gateways and schedulers speak with each other.
pub mod internal {
    /// `watchwork.internal.v1`.
    pub mod v1 {
        include!("generated/watchwork.internal.v1.rs");
    }
}
