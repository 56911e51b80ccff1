// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, EndpointSettings, LogSettings, ObservabilitySettings};

/// An endpoint that gives each client an address, and whose kernel answers pings.
#[derive(Clone, Debug, Parser)]
#[command(name = "nse-icmp", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) endpoint: EndpointSettings,
    /// What addresses come from: one pair of each group, [a,b],c
    #[arg(long, env = "NSM_CIDR_PREFIX", default_value = "169.254.0.0/16")]
    pub(crate) cidr_prefix: String,
    /// Whether addresses that a client brings from elsewhere stay (polite) or go (strict)
    #[arg(long, env = "NSM_IPAM_POLICY", default_value = "polite")]
    pub(crate) ipam_policy: IpamPolicy,
    /// End after this long without a connection; 0 never
    #[arg(long, env = "NSM_IDLE_TIMEOUT", default_value = "0")]
    pub(crate) idle_timeout: Duration,
    /// DNS for clients: JSON, [{\"dns_server_ips\": [], \"search_domains\": []}]
    #[arg(long, env = "NSM_DNS_CONFIGS", default_value = "[]")]
    pub(crate) dns_configs: String,
    /// Policy routes for clients: a YAML file, watched
    #[arg(
        long,
        env = "NSM_PBR_CONFIG_PATH",
        default_value = "/etc/policy-based-routing/config.yaml"
    )]
    pub(crate) pbr_config_path: std::path::PathBuf,

    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(flatten)]
    pub(crate) observability: ObservabilitySettings,
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
        &self.endpoint.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn observability(&self) -> Option<&ObservabilitySettings> {
        Some(&self.observability)
    }
}

/// What happens to addresses that a client brings from another endpoint.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpamPolicy {
    /// They stay.
    Polite,
    /// They go, unless they are free here.
    Strict,
}
