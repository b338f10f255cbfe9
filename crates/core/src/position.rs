//! Where in a bus: the identity of a stream, and positions in it. Clients treat a position as opaque.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What tells one life of a stream from another: 128 random bits, drawn when the stream is created.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamIdentity(pub u128);

/// Why a stream identity or a position was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// Not 32 hexadecimal digits.
    #[error("{0:?} is not a stream identity (32 hexadecimal digits)")]
    Identity(String),
    /// Not `{8 hexadecimal digits}-{sequence}`.
    #[error("{0:?} is not a position; take one as ingest printed it, such as 1f0c9a3e-42")]
    Position(String),
    /// A position of another stream, or of an earlier life of this one.
    #[error("position {position} belongs to another stream; this one's positions begin with {expected}")]
    AnotherStream {
        /// The position as it came.
        position: Position,
        /// The first eight digits of this stream's identity.
        expected: String,
    },
}

impl StreamIdentity {
    /// The position with this sequence in this stream.
    pub fn position(self, sequence: u64) -> Position {
        Position {
            stream: self.prefix(),
            sequence,
        }
    }

    /// The sequence of `position` when it is of this stream.
    pub fn sequence_of(self, position: Position) -> Result<u64, PositionError> {
        if position.stream == self.prefix() {
            return Ok(position.sequence);
        }
        Err(PositionError::AnotherStream {
            position,
            expected: format!("{:08x}", self.prefix()),
        })
    }

    fn prefix(self) -> u32 {
        (self.0 >> 96) as u32
    }
}

impl fmt::Display for StreamIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StreamIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<StreamIdentity> for String {
    fn from(identity: StreamIdentity) -> String {
        identity.to_string()
    }
}

impl TryFrom<String> for StreamIdentity {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Self, PositionError> {
        match u128::from_str_radix(&text, 16) {
            Ok(bits) if text.len() == 32 => Ok(Self(bits)),
            _ => Err(PositionError::Identity(text)),
        }
    }
}

/// A position in a stream, written `{first 8 hex of the stream identity}-{sequence}`. Sequences begin at 1; sequence 0
/// is the position before the first event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    stream: u32,
    /// The event's number in its stream.
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.stream, self.sequence)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let error = || PositionError::Position(text.to_owned());
        let (stream, sequence) = text.split_once('-').ok_or_else(error)?;
        if stream.len() != 8 || sequence.starts_with('+') {
            return Err(error());
        }
        Ok(Self {
            stream: u32::from_str_radix(stream, 16).map_err(|_| error())?,
            sequence: sequence.parse().map_err(|_| error())?,
        })
    }
}

impl From<Position> for String {
    fn from(position: Position) -> String {
        position.to_string()
    }
}

impl TryFrom<String> for Position {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back_as_it_was_printed() {
        let stream = StreamIdentity(0x1f0c_9a3e_0000_0000_0000_0000_0000_0007);
        let position = stream.position(42);
        assert_eq!(position.to_string(), "1f0c9a3e-42");
        assert_eq!("1f0c9a3e-42".parse(), Ok(position));
        assert_eq!(stream.sequence_of(position), Ok(42));
        assert_eq!(StreamIdentity::try_from(stream.to_string()), Ok(stream));
    }

    #[test]
    fn a_position_of_another_stream_is_refused() {
        let old = StreamIdentity(1 << 96).position(7);
        let error = StreamIdentity(2 << 96).sequence_of(old).expect_err("another stream");
        assert_eq!(
            error.to_string(),
            "position 00000001-7 belongs to another stream; this one's positions begin with 00000002"
        );
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for bad in [
            "",
            "42",
            "1f0c9a3e",
            "1f0c9a3e-",
            "xyz-1",
            "1f0c9a3e-+1",
            "1f0c9a3e--1",
            "1f0c9a3e-1-2",
        ] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
