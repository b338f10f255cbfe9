//! The right side of a comparison, and what it may mean without a declared schema: text, a number, a truth value, a
//! moment, or a pattern.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::filter::number::Number;

/// Characters of `2024-05-01`.
const DATE_LENGTH: usize = 10;

/// A literal, read once in every way that its form allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Literal {
    /// The text, without quotes, escapes and wildcards.
    pub(crate) text: String,
    /// What it is as a number; quoted text never is one.
    pub(crate) number: Option<Number>,
    /// What it is as a truth value; quoted text never is one.
    pub(crate) truth: Option<bool>,
    /// What it is as a moment, in nanoseconds since the epoch, quoted or not.
    pub(crate) moment: Option<i128>,
    /// Where a star stands.
    pub(crate) star: Star,
}

/// Where a wildcard stands: what it lets a value have more than the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Star {
    None,
    /// `abc*`
    After,
    /// `*abc`
    Before,
    /// `*abc*`
    Around,
}

impl Literal {
    /// A literal between quotes.
    pub(crate) fn quoted(text: String, star: Star) -> Self {
        let moment = if star == Star::None { moment(&text) } else { None };
        Self {
            text,
            number: None,
            truth: None,
            moment,
            star,
        }
    }

    /// A literal without quotes.
    pub(crate) fn bare(text: String, star: Star) -> Self {
        if star != Star::None {
            return Self::quoted(text, star);
        }
        let number = Number::parse(&text);
        let truth = match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        Self {
            number,
            truth,
            ..Self::quoted(text, star)
        }
    }
}

/// Nanoseconds since the epoch of an RFC 3339 time (`2024-05-01T12:00:00+02:00`) or of the first moment of a date in UTC
/// (`2024-05-01`); none for any other text.
pub(crate) fn moment(text: &str) -> Option<i128> {
    let bytes = text.as_bytes();
    let has_form = bytes.len() >= DATE_LENGTH
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && [0, 1, 2, 3, 5, 6, 8, 9]
            .iter()
            .all(|at: &usize| bytes[*at].is_ascii_digit());
    if !has_form {
        return None;
    }
    if bytes.len() == DATE_LENGTH {
        let date: Date = text.parse().ok()?;
        return date
            .to_zoned(TimeZone::UTC)
            .ok()
            .map(|date| date.timestamp().as_nanosecond());
    }
    // The parser knows more forms than RFC 3339 has; those are text here.
    let has_time = matches!(bytes[DATE_LENGTH], b'T' | b't') && !text.ends_with(']');
    let timestamp: Timestamp = has_time.then(|| text.parse().ok()).flatten()?;
    Some(timestamp.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_and_rfc_3339_times() {
        let noon = 1_714_564_800_000_000_000;
        assert_eq!(moment("2024-05-01T12:00:00Z"), Some(noon));
        assert_eq!(moment("2024-05-01T14:00:00+02:00"), Some(noon));
        assert_eq!(moment("2024-05-01t12:00:00.000000001z"), Some(noon + 1));
        assert_eq!(moment("2024-05-01"), Some(noon - 12 * 3_600_000_000_000));
        assert_eq!(moment("1969-12-31"), Some(-86_400_000_000_000));
        for text in [
            "",
            "2024",
            "2024-13-01",
            "2024-02-30",
            "2024-05-01T12:00:00",
            "2024-05-01 12:00:00Z",
            "20240501",
            "2024-05-01T12:00:00Z[UTC]",
            "2024-05-01x",
            "２０２４-05-01",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
