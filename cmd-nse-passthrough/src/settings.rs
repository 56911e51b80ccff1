// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, EndpointSettings, LogSettings, ObservabilitySettings};

/// An endpoint that passes its clients' packets on to another endpoint of the service.
///
/// Its pod gets two interfaces a client and forwards between them: what nftables let pass. The labels say which route
/// of the service leads to what comes behind; the service must have a match with them as its source selector.
#[derive(Clone, Debug, Parser)]
#[command(name = "nse-passthrough", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) endpoint: EndpointSettings,
    /// What addresses of the clients' wires come from: one pair of each group, [a,b],c
    #[arg(long, env = "NSM_CIDR_PREFIX", default_value = "169.254.0.0/16")]
    pub(crate) cidr_prefix: String,

    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(flatten)]
    pub(crate) observability: ObservabilitySettings,
}

impl nsm_sdk::app::Settings for Settings {
    fn name(&self) -> &str {
        &self.endpoint.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn observability(&self) -> Option<&ObservabilitySettings> {
        Some(&self.observability)
    }
}
