// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, InfoSettings, LogSettings};

/// The client: gives its pod a wire to each service it names, and keeps it.
#[derive(Clone, Debug, Parser)]
#[command(name = "nsc", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name; begins the ids of our connections, so it must be ours alone on the node
    #[arg(long, env = "NSM_NAME", default_value = "nsc")]
    pub(crate) name: String,
    /// The manager of our node
    #[arg(
        long,
        env = "NSM_CONNECT_TO",
        default_value = "unix:///var/lib/networkservicemesh/nsm.io.sock"
    )]
    pub(crate) connect_to: String,
    /// What we want: kernel://service/interface?label=value, ...
    #[arg(long, env = "NSM_NETWORK_SERVICES", value_delimiter = ',', required = true)]
    pub(crate) network_services: Vec<String>,
    /// How long dialling may take
    #[arg(long, env = "NSM_DIAL_TIMEOUT", default_value = "5s")]
    pub(crate) dial_timeout: Duration,
    /// How long one attempt may take
    #[arg(long, env = "NSM_REQUEST_TIMEOUT", default_value = "15s")]
    pub(crate) request_timeout: Duration,
    /// How long a token is valid that we sign
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m")]
    pub(crate) max_token_lifetime: Duration,
    /// Groups of services whose addresses may overlap: [url,url],[url]
    #[arg(long, env = "NSM_AWARENESS_GROUPS", default_value = "")]
    pub(crate) awareness_groups: String,
    #[command(flatten)]
    pub(crate) info: InfoSettings,
    #[command(flatten)]
    pub(crate) log: LogSettings,
}

impl nsm_sdk::app::Settings for Settings {
    const DEAD: &'static [&'static str] = &[
        "NSM_LABELS",
        "NSM_MECHANISM",
        "NSM_LIVENESS_CHECK_ENABLED",
        "NSM_LIVENESS_CHECK_INTERVAL",
        "NSM_LIVENESS_CHECK_TIMEOUT",
        "NSM_LOCAL_DNS_SERVER_ENABLED",
        "NSM_LOCAL_DNS_SERVER_ADDRESS",
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}
