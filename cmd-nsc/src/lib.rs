// SPDX-License-Identifier: Apache-2.0
//! The client: gives its pod a wire to each service it names.
#![forbid(unsafe_code)]

mod look;
mod run;
mod settings;
mod wire;

pub use run::{init, run};
pub use settings::Settings;
