// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, LogSettings, ObservabilitySettings};

/// Makes the wires of a node: interfaces in the pods of clients and endpoints, joined by the kernel.
#[derive(Clone, Debug, Parser)]
#[command(name = "forwarder", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name, as an endpoint and in paths
    #[arg(long, env = "NSM_NAME", default_value = "forwarder")]
    pub(crate) name: String,
    /// Our labels, key:value
    #[arg(long, env = "NSM_LABELS", default_value = "p2p:true", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// The service that forwarders offer
    #[arg(long, env = "NSM_NSNAME", default_value = "forwarder")]
    pub(crate) nsname: String,
    /// The manager of our node
    #[arg(long, env = "NSM_CONNECT_TO", default_value = "unix:///connect.to.socket")]
    pub(crate) connect_to: String,
    /// Where we listen
    #[arg(long, env = "NSM_LISTEN_ON", default_value = "unix:///listen.on.socket")]
    pub(crate) listen_on: String,
    /// How long a token is valid that we sign
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m")]
    pub(crate) max_token_lifetime: Duration,
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
    /// Mechanisms to offer first, best first
    #[arg(long, env = "NSM_MECHANISM_PRIORITY", value_delimiter = ',')]
    pub(crate) mechanism_priority: Vec<String>,
    /// Our address for tunnels to other nodes; by default that of the default route. With 127.0.0.1 wires stay on this
    /// node
    #[arg(long, env = "NSM_TUNNEL_IP")]
    pub(crate) tunnel_ip: Option<std::net::IpAddr>,
    /// The UDP port of VXLAN tunnels that we offer; 0 is that of RFC 7348, 4789
    #[arg(long, env = "NSM_VXLAN_PORT", default_value = "0")]
    pub(crate) vxlan_port: u16,
    /// Who makes WireGuard tunnels: auto (the kernel if it can, else this program), kernel or userspace
    #[arg(long, env = "NSM_WIREGUARD_ENGINE", default_value = "auto")]
    pub(crate) wireguard_engine: nsm_sdk_wireguard::Choice,
    /// The UDP ports of WireGuard tunnels, first-last
    #[arg(long, env = "NSM_WIREGUARD_PORT_RANGE", default_value_t)]
    pub(crate) wireguard_port_range: nsm_sdk_wireguard::Ports,
    /// Where we write down which wires we made, to find them again after a crash
    #[arg(
        long,
        env = "NSM_STATE_DIR",
        default_value = "/var/lib/networkservicemesh/forwarder"
    )]
    pub(crate) state_dir: std::path::PathBuf,
    /// The link group that marks our interfaces; another forwarder on the same node needs another one
    #[arg(
        long,
        env = "NSM_LINK_GROUP",
        default_value_t = nsm_sdk_kernel::GROUP,
        value_parser = clap::value_parser!(u32).range(1..1 << 31)
    )]
    pub(crate) link_group: u32,

    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(flatten)]
    pub(crate) observability: ObservabilitySettings,
}

impl nsm_sdk::app::Settings for Settings {
    const DEAD: &'static [&'static str] = &[
        "NSM_VPP_API_SOCKET",
        "NSM_VPP_INIT",
        "NSM_VPP_INIT_PARAMS",
        "NSM_VPP_MIN_OPERATION_TIMEOUT",
        "NSM_RESOURCE_POLL_TIMEOUT",
        "NSM_DEVICE_PLUGIN_PATH",
        "NSM_POD_RESOURCES_PATH",
        "NSM_DEVICE_SELECTOR_FILE",
        "NSM_SRIOV_CONFIG_FILE",
        "NSM_PCI_DEVICES_PATH",
        "NSM_PCI_DRIVERS_PATH",
        "NSM_CGROUP_PATH",
        "NSM_VFIO_PATH",
        "NSM_PROMETHEUS_CA_FILE",
        "NSM_PROMETHEUS_KEY_FILE",
        "NSM_PROMETHEUS_CERT_FILE",
        "NSM_PROMETHEUS_MONITOR_CERTIFICATE",
        "NSM_PROMETHEUS_SERVER_HEADER_TIMEOUT",
        "NSM_PROMETHEUS_MAX_BIND_THRESHOLD",
    ];

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
