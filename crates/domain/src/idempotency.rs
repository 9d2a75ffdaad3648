//! Idempotency keys: what names a submission, and what it must be the same in. SQL computes both too, for
//! submissions in a caller's own transaction: `idempotency_key()` and `idempotency_fingerprint()`.

use sha2::{Digest, Sha256};

use crate::Micros;

/// What a tenant's key is stored as: the first 128 bits of SHA-256 of the tenant's number and the key.
#[must_use]
pub fn key_hash(tenant: i32, key: &str) -> [u8; 16] {
    let hash = Sha256::new()
        .chain_update(tenant.to_be_bytes())
        .chain_update(key)
        .finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    first
}

/// What submissions under one key must agree in: what is to be done. Headers, labels and the trace may
/// differ.
#[derive(Clone, Copy, Debug)]
pub struct ToDo<'a> {
    /// The queue's number.
    pub queue: i32,
    /// The type's name.
    pub job_type: &'a str,
    /// The payload's media type.
    pub content_type: &'a str,
    /// When it is due, as the caller said it.
    pub due: Option<Micros>,
    /// What the handler gets.
    pub payload: &'a [u8],
}

impl ToDo<'_> {
    /// The first 64 bits of SHA-256 of all of it, each text behind its length.
    #[must_use]
    pub fn fingerprint(&self) -> i64 {
        let length = |text: &str| i32::try_from(text.len()).unwrap_or(i32::MAX).to_be_bytes();
        let hash = Sha256::new()
            .chain_update(self.queue.to_be_bytes())
            .chain_update(length(self.job_type))
            .chain_update(self.job_type)
            .chain_update(length(self.content_type))
            .chain_update(self.content_type)
            .chain_update(self.due.map_or(0, |due| due.0).to_be_bytes())
            .chain_update(self.payload)
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        i64::from_be_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_tells_submissions_apart_and_no_text_runs_into_the_next() {
        let one = ToDo {
            queue: 1,
            job_type: "mail",
            content_type: "text/plain",
            due: None,
            payload: b"x",
        };
        let others = [
            ToDo { queue: 2, ..one },
            ToDo {
                job_type: "mailt",
                content_type: "ext/plain",
                ..one
            },
            ToDo {
                due: Some(Micros(5)),
                ..one
            },
            ToDo {
                payload: b"y",
                ..one
            },
        ];
        assert_eq!(one.fingerprint(), ToDo { ..one }.fingerprint());
        for other in others {
            assert_ne!(one.fingerprint(), other.fingerprint(), "{other:?}");
        }
        assert_ne!(key_hash(1, "k"), key_hash(2, "k"));
    }
}
