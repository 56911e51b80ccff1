// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, LogSettings};

/// An endpoint that gives each client an address, and whose kernel answers pings.
#[derive(Clone, Debug, Parser)]
#[command(name = "nse-icmp", version, after_help = AFTER_HELP)]
pub struct Settings {
    /// Our name; must be ours alone in the registry
    #[arg(long, env = "NSM_NAME", default_value = "icmp-server")]
    pub name: String,
    /// The manager of our node
    #[arg(long, env = "NSM_CONNECT_TO", default_value = "unix:///var/lib/networkservicemesh/nsm.io.sock")]
    pub connect_to: String,
    /// Where we listen; a socket in a fresh directory by default
    #[arg(long, env = "NSM_LISTEN_ON")]
    pub listen_on: Option<String>,
    /// How long a token is valid that we sign
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m")]
    pub max_token_lifetime: Duration,
    /// Policies for the answers of registries that we call
    #[arg(long, env = "NSM_REGISTRY_CLIENT_POLICIES", default_value = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/client/.*.rego", value_delimiter = ',')]
    pub registry_client_policies: Vec<String>,
    /// How long dialling may take
    #[arg(long, env = "NSM_DIAL_TIMEOUT", default_value = "5s")]
    pub dial_timeout: Duration,
    /// The services that we offer
    #[arg(long, env = "NSM_SERVICE_NAMES", default_value = "icmp-responder", value_delimiter = ',')]
    pub service_names: Vec<String>,
    /// What the wires carry: ETHERNET or IP
    #[arg(long, env = "NSM_PAYLOAD", default_value = "ETHERNET")]
    pub payload: String,
    /// Our labels, key:value, for each service
    #[arg(long, env = "NSM_LABELS", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Whether we register the services as well
    #[arg(long, env = "NSM_REGISTER_SERVICE", default_value = "true", action = clap::ArgAction::Set)]
    pub register_service: bool,
    /// Whether we take ourselves out of the registry when we end
    #[arg(long, env = "NSM_UNREGISTER_ITSELF", default_value = "true", action = clap::ArgAction::Set)]
    pub unregister_itself: bool,
    /// What addresses come from: one pair of each group, [a,b],c
    #[arg(long, env = "NSM_CIDR_PREFIX", default_value = "169.254.0.0/16")]
    pub cidr_prefix: String,
    /// Whether addresses that a client brings from elsewhere stay (polite) or go (strict)
    #[arg(long, env = "NSM_IPAM_POLICY", default_value = "polite")]
    pub ipam_policy: IpamPolicy,
    /// End after this long without a connection; 0 never
    #[arg(long, env = "NSM_IDLE_TIMEOUT", default_value = "0")]
    pub idle_timeout: Duration,
    /// DNS for clients: JSON, [{\"dns_server_ips\": [], \"search_domains\": []}]
    #[arg(long, env = "NSM_DNS_CONFIGS", default_value = "[]")]
    pub dns_configs: String,
    /// Policy routes for clients: a YAML file, watched
    #[arg(long, env = "NSM_PBR_CONFIG_PATH", default_value = "/etc/policy-based-routing/config.yaml")]
    pub pbr_config_path: std::path::PathBuf,
    /// Our label nodeName
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Our label podName
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Our label clusterName
    #[arg(long, env = "CLUSTER_NAME")]
    pub cluster_name: Option<String>,

    #[command(flatten)]
    pub log: LogSettings,
}

impl nsm_sdk::app::Settings for Settings {
    const ALIASES: &'static [(&'static str, &'static str)] = &[
        ("NSE_NAME", "NSM_NAME"),
        ("NSE_CONNECT_TO", "NSM_CONNECT_TO"),
        ("NSE_MAX_TOKEN_LIFETIME", "NSM_MAX_TOKEN_LIFETIME"),
        ("NSE_PAYLOAD", "NSM_PAYLOAD"),
        ("NSE_LABELS", "NSM_LABELS"),
        ("NSE_CIDR_PREFIX", "NSM_CIDR_PREFIX"),
        ("NSE_DNS_CONFIGS", "NSM_DNS_CONFIGS"),
        ("NSE_IDLE_TIMEOUT", "NSM_IDLE_TIMEOUT"),
        ("NSE_SERVICE_NAME", "NSM_SERVICE_NAMES"),
        ("NSM_SERVICE_NAME", "NSM_SERVICE_NAMES"),
    ];
    const DEAD: &'static [&'static str] = &["NSM_BASE_DIR", "NSE_BASE_DIR"];

    fn name(&self) -> &str {
        &self.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}

/// What happens to addresses that a client brings from another endpoint.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpamPolicy {
    /// They stay.
    Polite,
    /// They go, unless they are free here.
    Strict,
}
