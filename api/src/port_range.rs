// SPDX-License-Identifier: Apache-2.0
//! Ports that a policy route selects: `port` or `first-last`.

use std::fmt;

use thiserror::Error;

use crate::text::{decimal, excerpt};

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port, at least `first`.
    pub last: u16,
}

/// Why a text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortRangeError {
    /// More than one dash.
    #[error("port range {0:?} has more than one dash, write \"first-last\" or a single port")]
    Format(String),
    /// A bound is no port.
    #[error("port range {0:?} has a bound that is no port, write decimal numbers from 0 to 65535")]
    Bound(String),
    /// The first port is above the last: the range is empty.
    #[error("port range {0:?} ends before it begins, write the lower port first")]
    Reversed(String),
}

impl PortRange {
    /// Reads `port` or `first-last`; an empty text selects no ports in particular.
    ///
    /// ```
    /// use nsm_api::port_range::PortRange;
    /// assert_eq!(PortRange::parse("80-90"), Ok(Some(PortRange { first: 80, last: 90 })));
    /// assert_eq!(PortRange::parse(""), Ok(None));
    /// ```
    pub fn parse(text: &str) -> Result<Option<Self>, PortRangeError> {
        if text.is_empty() {
            return Ok(None);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        if last.contains('-') {
            return Err(PortRangeError::Format(excerpt(text)));
        }
        let (Some(first), Some(last)) = (decimal(first), decimal(last)) else {
            return Err(PortRangeError::Bound(excerpt(text)));
        };
        if first > last {
            return Err(PortRangeError::Reversed(excerpt(text)));
        }
        Ok(Some(Self { first, last }))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_is_a_range_of_one() {
        let range = PortRange::parse("6666").expect("a port").expect("not empty");
        assert_eq!((range.first, range.last), (6666, 6666));
        assert_eq!(range.to_string(), "6666");
    }

    #[test]
    fn bounds_have_16_bits() {
        assert!(PortRange::parse("0-65535").is_ok());
        for text in ["65536", "1-65536", "-", "1-", "-1", "+1", " 1", "a-b"] {
            assert_eq!(
                PortRange::parse(text),
                Err(PortRangeError::Bound(text.into())),
                "{text}"
            );
        }
    }

    #[test]
    fn more_than_one_dash_and_reversed_bounds_are_errors() {
        assert_eq!(
            PortRange::parse("1-2-3"),
            Err(PortRangeError::Format("1-2-3".into()))
        );
        assert_eq!(
            PortRange::parse("9-1"),
            Err(PortRangeError::Reversed("9-1".into()))
        );
    }
}
