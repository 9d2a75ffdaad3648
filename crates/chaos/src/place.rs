//! Where an execution is stored: the name that all logs and tables have in common.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use domain::ExecutionId;
use serde::{Deserialize, Serialize};

/// A lane and the number in it, which an execution's id tells, too. Written `<lane>/<seq>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// The lane.
    pub lane: i16,
    /// The number in it.
    pub seq: i64,
}

impl From<ExecutionId> for Place {
    fn from(id: ExecutionId) -> Self {
        // 12 and 43 bits.
        Self {
            lane: i16::try_from(id.lane().0).unwrap_or(i16::MAX),
            seq: i64::try_from(id.seq()).unwrap_or(i64::MAX),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.lane, self.seq)
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let (lane, seq) = text.split_once('/').ok_or(PlaceError::NoSlash)?;
        Ok(Self {
            lane: lane.parse()?,
            seq: seq.parse()?,
        })
    }
}

impl TryFrom<String> for Place {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        text.parse()
    }
}

/// Why a text names no place.
#[derive(thiserror::Error, Debug)]
pub enum PlaceError {
    /// It isn't two numbers with a slash.
    #[error("expected <lane>/<seq>")]
    NoSlash,
    /// One of them is no number.
    #[error("expected <lane>/<seq>: {0}")]
    NoNumber(#[from] ParseIntError),
}
