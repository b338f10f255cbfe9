//! The bake: whether a lineage that answers since a short while does as well as the one before it.

use std::fmt;

use super::RolloutSettings;
use crate::gates::Measurements;
use crate::manifest::LineageId;

/// Fewer errors than this are chance, whatever their share.
const ERRORS_MIN: u64 = 5;
/// Answers below which a median says nothing.
const HALF_REQUESTS_MIN: u64 = 100;
/// Answers below which the slowest in a hundred says nothing.
const TAIL_REQUESTS_MIN: u64 = 500;

/// What a lineage has answered since it was flipped to.
#[derive(Debug, Clone, PartialEq)]
pub struct ServingWindow {
    /// The lineage that answered.
    pub lineage: LineageId,
    /// Requests by default lineage that were answered, errors included; a client's mistakes are no requests.
    pub requests: u64,
    /// Those that failed by the server's fault.
    pub errors: u64,
    /// Milliseconds that half of the answers stayed below.
    pub p50_ms: f64,
    /// Milliseconds that 99 of 100 stayed below.
    pub p99_ms: f64,
}

impl ServingWindow {
    /// What several processes answered of one lineage: sums, the mean of halves by their weight, and the slowest tail.
    /// None where nothing was answered.
    pub fn together(parts: &[Self]) -> Option<Self> {
        let requests: u64 = parts.iter().map(|part| part.requests).sum();
        let weighted: f64 = parts.iter().map(|part| part.p50_ms * part.requests as f64).sum();
        let first = parts.first().filter(|_| requests > 0)?;
        Some(Self {
            lineage: first.lineage.clone(),
            requests,
            errors: parts.iter().map(|part| part.errors).sum(),
            p50_ms: weighted / requests as f64,
            p99_ms: parts.iter().map(|part| part.p99_ms).fold(0.0, f64::max),
        })
    }
}

/// What latency is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Baseline {
    /// Milliseconds that half of the answers stayed below.
    pub p50_ms: f64,
    /// Milliseconds that 99 of 100 stayed below; none where too few were seen.
    pub p99_ms: Option<f64>,
}

/// What the lineage before took: as its last window shows, or else as it was measured for the gates.
pub fn baseline(before: Option<&ServingWindow>, measured: Option<&Measurements>) -> Option<Baseline> {
    let seen = before
        .filter(|window| window.requests >= HALF_REQUESTS_MIN)
        .map(|window| Baseline {
            p50_ms: window.p50_ms,
            p99_ms: (window.requests >= TAIL_REQUESTS_MIN).then_some(window.p99_ms),
        });
    let latency = measured.and_then(|measured| measured.latency.value());
    seen.or_else(|| {
        latency.map(|latency| Baseline {
            p50_ms: latency.active_p50_ms,
            p99_ms: Some(latency.active_p99_ms),
        })
    })
}

/// What a promoted lineage does worse than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breach {
    /// Too many requests fail.
    Errors {
        /// How many.
        errors: u64,
        /// Of how many.
        requests: u64,
    },
    /// Answers are too slow, in microseconds.
    Latency {
        /// `half` or `99 in 100`.
        of: &'static str,
        /// What it takes.
        micros: u64,
        /// What it may take.
        limit_micros: u64,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors { errors, requests } => write!(f, "{errors} of {requests} requests failed since it answers"),
            Self::Latency {
                of,
                micros,
                limit_micros,
            } => write!(
                f,
                "{of} answers take up to {:.1} ms since it answers, at most {:.1} ms are allowed",
                *micros as f64 / 1e3,
                *limit_micros as f64 / 1e3
            ),
        }
    }
}

/// What speaks against the lineage that answers.
pub(super) fn breach(
    settings: &RolloutSettings,
    window: &ServingWindow,
    baseline: Option<&Baseline>,
) -> Option<Breach> {
    let (requests, errors) = (window.requests, window.errors);
    if errors >= ERRORS_MIN && errors as f64 > settings.error_share_max * requests as f64 {
        return Some(Breach::Errors { errors, requests });
    }
    let baseline = baseline?;
    let too_slow = |of, is_enough: bool, ms: f64, before: f64| {
        let limit = (before * settings.latency_ratio_max).max(f64::from(settings.latency_floor_ms));
        (is_enough && ms > limit).then_some(Breach::Latency {
            of,
            micros: (ms * 1e3) as u64,
            limit_micros: (limit * 1e3) as u64,
        })
    };
    let half = too_slow(
        "half of the",
        requests >= HALF_REQUESTS_MIN,
        window.p50_ms,
        baseline.p50_ms,
    );
    half.or_else(|| {
        too_slow(
            "99 in 100",
            requests >= TAIL_REQUESTS_MIN,
            window.p99_ms,
            baseline.p99_ms?,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(requests: u64, errors: u64, p50_ms: f64, p99_ms: f64) -> ServingWindow {
        ServingWindow {
            lineage: "b".to_owned().into(),
            requests,
            errors,
            p50_ms,
            p99_ms,
        }
    }

    fn check(window: &ServingWindow, expected: &str) {
        let before = Baseline {
            p50_ms: 15.0,
            p99_ms: Some(40.0),
        };
        let breach = breach(&RolloutSettings::default(), window, Some(&before));
        assert_eq!(breach.map(|breach| breach.to_string()).unwrap_or_default(), expected);
    }

    #[test]
    fn errors_are_judged_by_share_and_not_by_one_or_two() {
        check(&window(4, 4, 1.0, 1.0), "");
        check(&window(5, 5, 1.0, 1.0), "5 of 5 requests failed since it answers");
        check(&window(500, 5, 1.0, 1.0), "");
        check(&window(499, 5, 1.0, 1.0), "5 of 499 requests failed since it answers");
    }

    #[test]
    fn latency_is_judged_once_there_is_enough_of_it() {
        check(&window(99, 0, 500.0, 500.0), "");
        let half = "half of the answers take up to 31.0 ms since it answers, at most 30.0 ms are allowed";
        check(&window(100, 0, 31.0, 500.0), half);
        check(&window(499, 0, 29.0, 81.0), "");
        let tail = "99 in 100 answers take up to 81.0 ms since it answers, at most 80.0 ms are allowed";
        check(&window(500, 0, 29.0, 81.0), tail);
    }

    #[test]
    fn without_anything_to_compare_with_only_errors_are_judged() {
        assert_eq!(
            breach(&RolloutSettings::default(), &window(1_000, 0, 900.0, 900.0), None),
            None
        );
    }

    #[test]
    fn the_last_window_is_the_measure_where_it_has_enough_answers() {
        let enough = window(600, 0, 2.0, 9.0);
        let expected = Baseline {
            p50_ms: 2.0,
            p99_ms: Some(9.0),
        };
        assert_eq!(baseline(Some(&enough), None), Some(expected));
        assert_eq!(baseline(Some(&window(99, 0, 2.0, 9.0)), None), None);
        let half = baseline(Some(&window(100, 0, 2.0, 9.0)), None);
        assert_eq!(half.and_then(|baseline| baseline.p99_ms), None);
    }
}
