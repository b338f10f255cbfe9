//! A moment, as nanoseconds since the epoch; text form is RFC 3339 in UTC. Reading a clock is not done here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(pub i64);

/// A text that is no RFC 3339 time between the years 1678 and 2262.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an RFC 3339 time such as 2026-05-01T12:00:00Z")]
pub struct TimestampError(pub String);

impl Timestamp {
    /// Parses an RFC 3339 time with any offset.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let error = || TimestampError(text.to_owned());
        let timestamp: jiff::Timestamp = text.parse().map_err(|_| error())?;
        i64::try_from(timestamp.as_nanosecond()).map(Self).map_err(|_| error())
    }

    /// The time that many nanoseconds later; saturates.
    pub fn plus(self, nanoseconds: i64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds from `earlier` to this one, 0 when it is later.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "{} ns", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Timestamp> for String {
    fn from(timestamp: Timestamp) -> String {
        timestamp.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;

    fn try_from(text: String) -> Result<Self, TimestampError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_back_to_the_nanosecond() {
        for text in [
            "2026-05-01T12:00:00.000000001Z",
            "1970-01-01T00:00:00Z",
            "1969-12-31T23:59:59.5Z",
        ] {
            let timestamp = Timestamp::parse(text).expect("valid");
            assert_eq!(timestamp.to_string(), text);
        }
        assert_eq!(
            Timestamp::parse("2026-05-01T14:00:00+02:00"),
            Timestamp::parse("2026-05-01T12:00:00Z")
        );
        assert!(Timestamp::parse("2026-05-01").is_err());
    }
}
