use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher24;
use uuid::Uuid;

use crate::{Hour, Micros};

/// The number of a lane: 0 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId(pub u16);

impl LaneId {
    /// How many lanes there can be: the id gives them 12 bits.
    pub const MAX_LANES: u16 = 4096;
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One bit tells who gave the number, the others are it.
const SEQ_BITS: u32 = 44;
const TAG_BITS: u32 = 18;

/// The public id of an execution: 16 bytes, shown as a UUID of version 8.
///
/// `48 bit home ms | 4 version | 12 bit lane | 2 variant | 1 origin | 43 bit seq | 18 bit tag`: it says
/// where the execution's rows are, so that every look-up is one probe. Numbers are given by the lane's
/// owner, in order (origin 0), or by the database for what comes through the inbox (origin 1); origin
/// and number together are the execution's number in its lane. The tag is a keyed hash of the rest: ids
/// can't be guessed, and nonsense never reaches the database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionId([u8; 16]);

impl ExecutionId {
    /// The first of the numbers that the database gives; an owner's lie below.
    pub const FIRST_FOREIGN_SEQ: u64 = 1 << 43;

    /// The id of the execution `seq` of `lane` whose home time is `home`.
    #[must_use]
    pub fn new(lane: LaneId, seq: u64, home: Micros, key: &IdKey) -> Self {
        let high = (home.millis() << 16) | 0x8000 | u64::from(lane.0 & 0x0fff);
        let low = (0b10 << 62) | ((seq & ((1 << SEQ_BITS) - 1)) << TAG_BITS);
        let tag = key.tag(high, low);
        Self::from_halves(high, low | tag)
    }

    /// The id that these bytes are, whatever they say.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id that these bytes are; `None` unless they are 16.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes, as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The lane it lives in.
    #[must_use]
    pub fn lane(self) -> LaneId {
        LaneId(u16::from_be_bytes([self.0[6] & 0x0f, self.0[7]]))
    }

    /// Its number in the lane; unique there for good.
    #[must_use]
    pub fn seq(self) -> u64 {
        (self.halves().1 >> TAG_BITS) & ((1 << SEQ_BITS) - 1)
    }

    /// Its home time, in milliseconds since 1970: it tells the window of its rows.
    #[must_use]
    pub fn home_ms(self) -> u64 {
        self.halves().0 >> 16
    }

    /// Its home time, to the millisecond.
    #[must_use]
    pub fn home_time(self) -> Micros {
        Micros(i64::try_from(self.home_ms()).unwrap_or(0) * 1_000)
    }

    /// The hour of its home time.
    #[must_use]
    pub fn home(self) -> Hour {
        self.home_time().hour()
    }

    /// Whether this installation made it.
    #[must_use]
    pub fn is_genuine(self, key: &IdKey) -> bool {
        let (high, low) = self.halves();
        let tag_mask = (1 << TAG_BITS) - 1;
        let marked = high & 0xf000 == 0x8000 && low >> 62 == 0b10;
        marked && key.tag(high, low & !tag_mask) == low & tag_mask
    }

    fn from_halves(high: u64, low: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }

    fn halves(self) -> (u64, u64) {
        let all = u128::from_be_bytes(self.0);
        ((all >> 64) as u64, all as u64)
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no UUID.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no execution id: expected a UUID such as 0199c8a1-7d2e-8003-8000-0000000c3a91")]
pub struct ParseIdError(String);

impl FromStr for ExecutionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let uuid =
            Uuid::try_parse(text).map_err(|_| ParseIdError(text.chars().take(64).collect()))?;
        Ok(Self(uuid.into_bytes()))
    }
}

/// The key of the ids' tags: one for each database, made when it is installed, never changed.
#[derive(Clone)]
pub struct IdKey([u8; 16]);

impl IdKey {
    /// The key that these bytes are.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Numbers given by the database get their tags from it too, which has SHA-256 and no SipHash.
    fn tag(&self, high: u64, low: u64) -> u64 {
        const FOREIGN: u64 = ExecutionId::FIRST_FOREIGN_SEQ << TAG_BITS;
        match low & FOREIGN {
            0 => self.owners_tag(high, low),
            _ => self.databases_tag(high, low),
        }
    }

    fn databases_tag(&self, high: u64, low: u64) -> u64 {
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update(high.to_be_bytes())
            .chain_update(low.to_be_bytes())
            .finalize();
        let first = hash
            .iter()
            .take(3)
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        first & ((1 << TAG_BITS) - 1)
    }

    fn owners_tag(&self, high: u64, low: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write_u64(high);
        hasher.write_u64(low);
        hasher.finish() & ((1 << TAG_BITS) - 1)
    }
}

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_tells_what_it_was_made_of(
            lane in 0u16..4096, seq in 0u64..1 << 44, ms in 0i64..1 << 47, key in any::<[u8; 16]>(),
        ) {
            let key = IdKey::new(key);
            let id = ExecutionId::new(LaneId(lane), seq, Micros(ms * 1_000), &key);
            prop_assert_eq!(id.lane(), LaneId(lane));
            prop_assert_eq!(id.seq(), seq);
            prop_assert_eq!(id.home_ms(), ms as u64);
            prop_assert!(id.is_genuine(&key));
            prop_assert_eq!(id.to_string().parse::<ExecutionId>().unwrap(), id);
            prop_assert_eq!(Uuid::from_bytes(*id.as_bytes()).get_version_num(), 8);
        }
    }

    #[test]
    fn an_id_with_any_bit_changed_is_not_genuine() {
        let key = IdKey::new([7; 16]);
        let id = ExecutionId::new(LaneId(3), 77_001, Micros(1_790_000_000_000_000), &key);
        for bit in 0..128 {
            let mut bytes = *id.as_bytes();
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            assert!(
                !ExecutionId::from_bytes(bytes).is_genuine(&key),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn another_installations_id_is_not_genuine() {
        let id = ExecutionId::new(
            LaneId(3),
            12,
            Micros(1_790_000_000_000_000),
            &IdKey::new([1; 16]),
        );
        assert!(!id.is_genuine(&IdKey::new([2; 16])));
    }
}
