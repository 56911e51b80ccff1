// SPDX-License-Identifier: Apache-2.0
//! The UDP ports that an engine chooses from.

use std::fmt;
use std::str::FromStr;

use nsm_sdk::core::{Error, Result};

/// A range of UDP ports, both ends included. In text `51840-52863`, or one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Default for Ports {
    /// 1024 ports away from those that network plugins use for WireGuard: 51820, 51821, 51871.
    fn default() -> Self {
        Self {
            first: 51_840,
            last: 52_863,
        }
    }
}

impl Ports {
    /// The ports from `first` to `last`.
    ///
    /// Errors: `bad-ports`.
    pub fn new(first: u16, last: u16) -> Result<Self> {
        if first == 0 || last < first {
            return Err(bad(&format!("{first}-{last}")));
        }
        Ok(Self { first, last })
    }

    /// All of them, each once, beginning at a place that `random` decides.
    pub(crate) fn from(self, random: u16) -> impl Iterator<Item = u16> + Send {
        let (first, last) = (u32::from(self.first), u32::from(self.last));
        let count = last - first + 1;
        let port = move |step: u32| first + (u32::from(random) + step) % count;
        // Both ends are ports, so everything between them is one.
        (0..count).filter_map(move |step| u16::try_from(port(step)).ok())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Ports {
    type Err = Error;

    /// Errors: `bad-ports`.
    fn from_str(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u16>().map_err(|_| bad(text));
        Self::new(number(first)?, number(last)?)
    }
}

fn bad(text: &str) -> Error {
    let text = text.escape_default().take(32).collect::<String>();
    Error::invalid(
        "bad-ports",
        format!("{text} is no range of UDP ports; write the first and the last, like 51840-52863"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_tried_once_wherever_it_begins() {
        let ports = Ports::new(65_530, 65_535).expect("a range");
        for random in [0, 3, u16::MAX] {
            let mut tried: Vec<_> = ports.from(random).collect();
            tried.sort_unstable();
            assert_eq!(tried, (65_530..=65_535).collect::<Vec<_>>());
        }
        assert_ne!(ports.from(0).next(), ports.from(1).next());
    }

    #[test]
    fn a_range_survives_its_text() {
        let ports = Ports::default();
        assert_eq!(ports.to_string().parse::<Ports>().expect("parses"), ports);
        assert_eq!(
            "7".parse::<Ports>().expect("one port"),
            Ports::new(7, 7).expect("one")
        );
    }

    #[test]
    fn what_is_no_range_is_refused_with_an_example() {
        for text in ["", "0-5", "9-8", "1-65536", "a-b", "-", "1-2-3"] {
            let error = text.parse::<Ports>().expect_err("no range");
            assert_eq!(error.reason(), "bad-ports", "{text}");
            assert!(error.text().contains("51840-52863"));
        }
    }
}
