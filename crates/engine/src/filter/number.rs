//! Numbers that compare exactly, whether they are written as integers or with a point: 1 = 1.0, and integers beyond 2^53
//! keep their last digit.

use std::ops::RangeInclusive;

/// A finite number. Whole ones are always [`Number::Whole`] where they fit, so that equal numbers are equal here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Whole(i128),
    Fraction(f64),
}

impl Eq for Number {}

/// Below this, a whole `f64` is taken as a whole number; all of JSON's integers are far below.
const WHOLE_MAX: f64 = 1e30;

impl Number {
    /// Reads a number as JSON writes it; none for any other text, and for what no `f64` can hold.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('.') {
            return None;
        }
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            if let Ok(whole) = text.parse() {
                return Some(Self::Whole(whole));
            }
        } else if !digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        {
            return None;
        }
        text.parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .map(Self::from)
    }

    /// The integers of a column that lie on a side of this number, as an inclusive range; none where there are none.
    pub(crate) fn whole_range(self, side: Side) -> Option<RangeInclusive<i128>> {
        let (floor, exact) = match self {
            Self::Whole(whole) => (whole, true),
            // Saturates where the number is beyond all integers, which is what the range needs.
            Self::Fraction(fraction) => (fraction.floor() as i128, fraction.fract() == 0.0),
        };
        let range = match side {
            Side::Equal if !exact => return None,
            Side::Equal => floor..=floor,
            Side::Less => i128::MIN..=if exact { floor.saturating_sub(1) } else { floor },
            Side::LessOrEqual => i128::MIN..=floor,
            Side::Greater => floor.saturating_add(1)..=i128::MAX,
            Side::GreaterOrEqual => (if exact { floor } else { floor.saturating_add(1) })..=i128::MAX,
        };
        Some(range)
    }

    /// The floats of a column that lie on a side of this number, as an inclusive range; none where there are none.
    pub(crate) fn fraction_range(self, side: Side) -> Option<RangeInclusive<f64>> {
        let (near, order) = match self {
            Self::Fraction(fraction) => (fraction, std::cmp::Ordering::Equal),
            // Rounded to the nearest float, which may lie on either side of the whole number.
            Self::Whole(whole) => (whole as f64, (whole as f64 as i128).cmp(&whole)),
        };
        let below = if order.is_ge() { near.next_down() } else { near };
        let at_most = if order.is_gt() { near.next_down() } else { near };
        let above = if order.is_le() { near.next_up() } else { near };
        let at_least = if order.is_lt() { near.next_up() } else { near };
        let range = match side {
            Side::Equal if order.is_ne() => return None,
            Side::Equal => near..=near,
            Side::Less => f64::NEG_INFINITY..=below,
            Side::LessOrEqual => f64::NEG_INFINITY..=at_most,
            Side::Greater => above..=f64::INFINITY,
            Side::GreaterOrEqual => at_least..=f64::INFINITY,
        };
        Some(range)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        if number.fract() == 0.0 && number.abs() < WHOLE_MAX {
            Self::Whole(number as i128)
        } else {
            Self::Fraction(number)
        }
    }
}

/// Which numbers a comparison wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_calls_a_number_is_one_and_nothing_else() {
        for (text, number) in [
            ("1", Number::Whole(1)),
            ("-0", Number::Whole(0)),
            ("1.0", Number::Whole(1)),
            ("1e3", Number::Whole(1000)),
            ("-2.5", Number::Fraction(-2.5)),
            ("9007199254740993", Number::Whole(9_007_199_254_740_993)),
            ("18446744073709551615", Number::Whole(u64::MAX.into())),
            ("007", Number::Whole(7)),
        ] {
            assert_eq!(Number::parse(text), Some(number), "{text}");
        }
        for text in [
            "",
            "-",
            ".5",
            "5.",
            "1.2.3",
            "1e",
            "e3",
            "inf",
            "NaN",
            "0x10",
            "1_000",
            "+1",
            "2024-01-01",
            "1e400",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_of_floats_do_not_round_whole_numbers() {
        let odd = Number::Whole(9_007_199_254_740_993);
        let even = 9_007_199_254_740_992.0_f64;
        assert_eq!(odd.fraction_range(Side::Equal), None);
        assert!(odd.fraction_range(Side::Less).expect("some").contains(&even));
        assert!(!odd.fraction_range(Side::GreaterOrEqual).expect("some").contains(&even));
        assert!(odd.fraction_range(Side::Greater).expect("some").contains(&(even + 2.0)));
        assert!(
            !odd.fraction_range(Side::LessOrEqual)
                .expect("some")
                .contains(&(even + 2.0))
        );
    }

    #[test]
    fn ranges_of_integers_know_what_lies_between_them() {
        let half = Number::Fraction(2.5);
        assert_eq!(half.whole_range(Side::Less), Some(i128::MIN..=2));
        assert_eq!(half.whole_range(Side::GreaterOrEqual), Some(3..=i128::MAX));
        assert_eq!(half.whole_range(Side::Equal), None);
        assert_eq!(Number::Whole(2).whole_range(Side::Less), Some(i128::MIN..=1));
        assert_eq!(
            Number::Fraction(-2.5).whole_range(Side::LessOrEqual),
            Some(i128::MIN..=-3)
        );
    }
}
