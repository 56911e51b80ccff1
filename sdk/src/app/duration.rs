// SPDX-License-Identifier: Apache-2.0
//! Durations as the environment variables of Network Service Mesh write them.

use std::fmt;
use std::str::FromStr;
use std::time;

/// A time span in Go's syntax: `10m`, `1h30m`, `750ms`, `1.5s`; `0` needs no unit. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub time::Duration);

/// Text that is no [`Duration`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write numbers with units, such as 10m, 1h30m, 750ms or 1.5s")]
pub struct ParseDurationError(String);

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseDurationError(text.to_string());
        if text == "0" {
            return Ok(Self(time::Duration::ZERO));
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        let mut seconds = 0.0;
        while seconds == 0.0 || !rest.is_empty() {
            let number = rest.len()
                - rest
                    .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                    .len();
            let (digits, after) = rest.split_at(number);
            let unit = after.len() - after.trim_start_matches(|c: char| c.is_alphabetic()).len();
            let (unit, after) = after.split_at(unit);
            let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
            seconds += digits.parse::<f64>().map_err(|_| bad())? * size;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        time::Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| bad())
    }
}

impl Duration {
    /// The shortest time that is none.
    const INSTANT: Self = Self(time::Duration::from_nanos(1));

    /// How long tokens are valid: as any time, and a negative one is over as soon as a token is signed, as with the
    /// reference, whose examples show so what becomes of expired tokens.
    ///
    /// Errors: [`ParseDurationError`].
    pub fn of_tokens(text: &str) -> Result<Self, ParseDurationError> {
        let parsed = |text: &str| text.parse().map_err(|_| ParseDurationError(text.to_string()));
        match text.strip_prefix('-') {
            Some(over) => parsed(over).map(|_: Self| Self::INSTANT),
            None => parsed(text),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_time_of_tokens_is_over_at_once() {
        assert_eq!(Duration::of_tokens("10m"), "10m".parse());
        assert_eq!(Duration::of_tokens("-1m"), Ok(Duration::INSTANT));
        for bad in ["-", "-x", "--1m", ""] {
            assert!(Duration::of_tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_what_go_writes() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("750ms", 750_000),
            ("10m0s", 600_000_000),
            ("1h30m", 5_400_000_000),
            ("1.5s", 1_500_000),
            ("100us", 100),
            ("100µs", 100),
            ("+2s", 2_000_000),
        ];
        for (text, micros) in cases {
            let expected = Duration(time::Duration::from_micros(micros));
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "5",
            "-5m",
            "1d",
            "30 s",
            "s",
            "1.2.3s",
            "10m5",
            "inf",
            "1e3s",
            "99999999999999999999999h",
        ] {
            assert_eq!(
                text.parse::<Duration>(),
                Err(ParseDurationError(text.into())),
                "{text}"
            );
        }
    }
}
