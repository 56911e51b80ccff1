// SPDX-License-Identifier: Apache-2.0
//! Which engine: what the settings say, and what works here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use nsm_sdk::core::{Component, Error, Result};

use crate::engine::{Config, Engine};
use crate::fallback::{Fallback, Userspace};
use crate::{kernel, userspace};

/// What the settings say about the engine. In text `auto`, `kernel` or `userspace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's, or the one of this program where the kernel has none, or has none any more.
    #[default]
    Auto,
    /// The kernel's, or none.
    Kernel,
    /// That of this program.
    Userspace,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

impl FromStr for Choice {
    type Err = Error;

    /// Errors: `bad-engine`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Kernel),
            "userspace" => Ok(Self::Userspace),
            other => {
                let other = other.escape_default().take(32).collect::<String>();
                Err(Error::invalid(
                    "bad-engine",
                    format!(
                        "{other:?} is no WireGuard engine; write auto (the kernel's where it has one), kernel (fail \
                         where it has none) or userspace (in this program)"
                    ),
                ))
            }
        }
    }
}

/// Starts the engine of the `choice`, and logs which it is and why.
///
/// Errors: those of [`kernel::start`] and [`userspace::start`]; for `auto` those of the latter, with both reasons.
pub async fn start(component: &Component, choice: Choice, config: &Config) -> Result<Arc<dyn Engine>> {
    let engine = match choice {
        Choice::Kernel => kernel::start(component, config).await?,
        Choice::Userspace => userspace::start(component, config).await?,
        Choice::Auto => match kernel::start(component, config).await {
            Ok(engine) => {
                let userspace = Userspace {
                    component: component.clone(),
                    config: config.clone(),
                };
                Arc::new(Fallback::new(engine, userspace))
            }
            Err(why) => {
                let engine = userspace::start(component, config).await;
                let engine = engine.map_err(|error| error.context(format!("neither engine works: {why}")))?;
                tracing::info!(engine = %engine.kind(), %choice, %why, "WireGuard tunnels are made in this program");
                return Ok(engine);
            }
        },
    };
    tracing::info!(engine = %engine.kind(), %choice, "WireGuard tunnels can be made");
    Ok(engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_survives_its_text() {
        for choice in [Choice::Auto, Choice::Kernel, Choice::Userspace] {
            assert_eq!(choice.to_string().parse::<Choice>().expect("parses"), choice);
        }
        assert_eq!(Choice::default(), Choice::Auto);
    }

    #[test]
    fn an_error_says_what_there_is_to_choose_from() {
        let error = "boringtun".parse::<Choice>().expect_err("no choice");
        assert_eq!(error.reason(), "bad-engine");
        for word in ["boringtun", "auto", "kernel", "userspace"] {
            assert!(error.text().contains(word), "{error}");
        }
    }
}
