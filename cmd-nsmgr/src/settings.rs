// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, InfoSettings, LogSettings, ObservabilitySettings};

/// The network service manager of a node: takes the requests of its clients, picks a forwarder, and stands between its endpoints and the registry.
#[derive(Clone, Debug, Parser)]
#[command(name = "nsmgr", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name in paths; must differ from the names of our neighbours
    #[arg(long, env = "NSM_NAME", default_value = "nsmgr")]
    pub(crate) name: String,
    /// Where we listen; the first tcp URL is how other nodes find us
    #[arg(
        long,
        env = "NSM_LISTEN_ON",
        default_value = "unix:///var/lib/networkservicemesh/nsm.io.sock",
        value_delimiter = ','
    )]
    pub(crate) listen_on: Vec<String>,
    /// The registry; empty keeps everything in our own memory
    #[arg(long, env = "NSM_REGISTRY_URL", default_value = "tcp://localhost:5001")]
    pub(crate) registry_url: String,
    /// How long a token is valid that we sign
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m")]
    pub(crate) max_token_lifetime: Duration,
    /// Policies for those who register with us
    #[arg(
        long,
        env = "NSM_REGISTRY_SERVER_POLICIES",
        default_value = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/server/.*.rego",
        value_delimiter = ','
    )]
    pub(crate) registry_server_policies: Vec<String>,
    /// Policies for the answers of registries that we call
    #[arg(
        long,
        env = "NSM_REGISTRY_CLIENT_POLICIES",
        default_value = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/client/.*.rego",
        value_delimiter = ','
    )]
    pub(crate) registry_client_policies: Vec<String>,
    /// How long dialling may take
    #[arg(long, env = "NSM_DIAL_TIMEOUT", default_value = "750ms")]
    pub(crate) dial_timeout: Duration,
    /// The service that forwarders offer
    #[arg(long, env = "NSM_FORWARDER_NETWORK_SERVICE_NAME", default_value = "forwarder")]
    pub(crate) forwarder_network_service_name: String,
    /// Prefixes that no endpoint may give out: a YAML file, watched
    #[arg(
        long,
        env = "NSM_EXCLUDED_PREFIXES_FILE",
        default_value = "/var/lib/networkservicemesh/config/excluded_prefixes.yaml"
    )]
    pub(crate) excluded_prefixes_file: std::path::PathBuf,
    /// The socket of a program beside us that is told what becomes of our clients' requests: agent-k8s; nobody by default
    #[arg(long, env = "NSM_REPORT_TO", default_value = "")]
    pub(crate) report_to: String,
    #[command(flatten)]
    pub(crate) info: InfoSettings,
    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(flatten)]
    pub(crate) observability: ObservabilitySettings,
}

impl nsm_sdk::app::Settings for Settings {
    fn name(&self) -> &str {
        &self.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn observability(&self) -> Option<&ObservabilitySettings> {
        Some(&self.observability)
    }
}
