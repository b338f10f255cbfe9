//! The time that a client allows for a call (`grpc-timeout`), for those who wait inside it and for those who end it.
//!
//! tonic's own layer would end a late call with CANCELLED and tells the handler nothing, so it is not used.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Extensions;
use tonic::codegen::http::HeaderMap;

/// A handler that waits stops this share of the allowed time early, so that its answer arrives before the client's
/// own timer ends the call without a reason.
const MARGIN_SHARE: u32 = 10;
/// The margin is at most this: what an answer may take on its way.
const MARGIN_MAX: Duration = Duration::from_millis(50);

/// Until when a handler may wait.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(allowed: Duration) -> Option<Self> {
        Instant::now().checked_add(usable(allowed)).map(Self)
    }

    /// How long the handler of this call may still wait; none when the client set no limit.
    pub fn remaining(extensions: &Extensions) -> Option<Duration> {
        let deadline = extensions.get::<Self>()?;
        Some(deadline.0.saturating_duration_since(Instant::now()))
    }
}

/// The part of the allowed time that a handler may wait.
fn usable(allowed: Duration) -> Duration {
    allowed - (allowed / MARGIN_SHARE).min(MARGIN_MAX)
}

/// What the client allows; none where it says nothing, or nothing that can be read.
pub(crate) fn allowed(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The protocol allows eight digits and no sign.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_the_protocol_is_read_and_nothing_else() {
        let check = |text: &str, expected: Option<Duration>| {
            let headers =
                HeaderMap::from_iter([("grpc-timeout".parse().expect("a name"), text.parse().expect("ASCII"))]);
            assert_eq!(allowed(&headers), expected, "{text}");
        };
        check("2H", Some(Duration::from_secs(7_200)));
        check("3M", Some(Duration::from_secs(180)));
        check("4S", Some(Duration::from_secs(4)));
        check("5m", Some(Duration::from_millis(5)));
        check("6u", Some(Duration::from_micros(6)));
        check("7n", Some(Duration::from_nanos(7)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3_600)));
        for wrong in ["", "5", "S", "-5S", "+5S", "5s", "5 S", "123456789S", "1.5S"] {
            check(wrong, None);
        }
        assert_eq!(allowed(&HeaderMap::new()), None);
    }

    #[test]
    fn a_handler_stops_waiting_a_little_before_the_client_does() {
        for (allowed_ms, expected_ms) in [(100, 90), (10_000, 9_950), (0, 0)] {
            assert_eq!(
                usable(Duration::from_millis(allowed_ms)),
                Duration::from_millis(expected_ms)
            );
        }
        assert_eq!(Deadline::remaining(&Extensions::new()), None);
    }
}
