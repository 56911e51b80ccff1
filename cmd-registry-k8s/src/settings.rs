// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, LogSettings, ObservabilitySettings};

/// Keeps network services and endpoints as objects of Kubernetes.
///
/// Runs in a pod whose service account may read and write them, or with KUBECONFIG.
#[derive(Clone, Debug, Parser)]
#[command(name = "registry-k8s", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name in errors and logs
    #[arg(long, env = "NSM_NAME", default_value = "registry")]
    pub(crate) name: String,
    /// Where we listen
    #[arg(
        long,
        env = "NSM_LISTEN_ON",
        default_value = "unix:///listen.on.socket",
        value_delimiter = ','
    )]
    pub(crate) listen_on: Vec<String>,
    /// The namespace in which we write; objects are found in all
    #[arg(long, env = "NSM_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
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
    /// How long an endpoint stays that is not registered again, at most
    #[arg(long, env = "NSM_EXPIRE_PERIOD", default_value = "1m")]
    pub(crate) expire_period: Duration,
    /// How often a second we ask the API server for something, at most; twice as often after a rest
    #[arg(long, env = "NSM_KUBELET_QPS", default_value = "205", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) kubelet_qps: u32,

    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(flatten)]
    pub(crate) observability: ObservabilitySettings,
}

impl nsm_sdk::app::Settings for Settings {
    const ALIASES: &'static [(&'static str, &'static str)] = &[
        ("REGISTRY_K8S_LISTEN_ON", "NSM_LISTEN_ON"),
        ("REGISTRY_K8S_NAMESPACE", "NSM_NAMESPACE"),
        ("REGISTRY_K8S_EXPIRE_PERIOD", "NSM_EXPIRE_PERIOD"),
        ("REGISTRY_K8S_MAX_TOKEN_LIFETIME", "NSM_MAX_TOKEN_LIFETIME"),
    ];
    const DEAD: &'static [&'static str] = &["NSM_PROXY_REGISTRY_URL", "NSM_REGISTRY_CLIENT_POLICIES"];

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
