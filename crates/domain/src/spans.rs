use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::ExecutionId;

/// The span id of one phase of an execution's life: the same whoever tells it, so that a span which
/// is told twice (by an owner and its successor) is still one span, and a child can name its parent
/// without having seen it. `fence` is the claim's, 0 for what comes before the first claim.
#[must_use]
pub fn lifecycle_span_id(id: ExecutionId, fence: u64, phase: &str) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_key(b"watchwork/spans/");
    hasher.write(id.as_bytes());
    hasher.write_u64(fence);
    hasher.write(phase.as_bytes());
    // Zero is no span id in W3C trace context.
    hasher.finish().max(1).to_be_bytes()
}
