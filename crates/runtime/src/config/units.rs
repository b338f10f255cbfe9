//! Durations and sizes as people write them: a whole number and a unit.
//!
//! A number without a unit is refused, because it is read by whoever guesses. `m` is refused too: minutes or months?

use std::fmt;
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Binary units first: a size is shown in the largest of them that divides it.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let smallest = units.last().expect("tables of units are not empty");
    let (name, factor) = units
        .iter()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .unwrap_or(smallest);
    format!("{} {name}", value / factor)
}

/// Reads `200ms`, `5 min`, `7d`; none for anything else.
///
/// ```
/// use std::time::Duration;
/// use verdigris_runtime::config::units::parse_duration;
/// assert_eq!(parse_duration("200 ms"), Some(Duration::from_millis(200)));
/// assert_eq!(parse_duration("200"), None);
/// ```
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATION_UNITS).map(Duration::from_nanos)
}

/// A duration as [`parse_duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), &DURATION_UNITS)
}

impl ByteSize {
    /// Reads `64 MiB`, `1GB`, `512B`; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        parse(text, &SIZE_UNITS).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.0, &SIZE_UNITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["0 ns", "1 ns", "200 ms", "1500 ms", "90 s", "5 min", "36 h", "7 d"] {
            let duration = parse_duration(text).expect("valid");
            assert_eq!(show_duration(duration), text);
        }
        for text in ["0 B", "1 B", "1 KiB", "1536 KiB", "64 MiB", "3 TiB", "1 GB"] {
            let size = ByteSize::parse(text).expect("valid");
            assert_eq!(size.to_string(), text);
        }
    }

    #[test]
    fn what_has_no_unit_or_an_unclear_one_is_refused() {
        for wrong in [
            "",
            "5",
            "5m",
            "s",
            "-1s",
            "1.5s",
            "5 S",
            "5  parsecs",
            "99999999999999999999s",
            "200000000000h",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
        for wrong in ["", "5", "5K", "MiB", "-1B", "1.5GiB", "5mb", "20000000 TiB"] {
            assert_eq!(ByteSize::parse(wrong), None, "{wrong}");
        }
    }
}
