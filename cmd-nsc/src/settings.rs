// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, Failure, InfoSettings, LogSettings, ObservabilitySettings};
use nsm_sdk::core::Error;
use nsm_sdk::networkservice::heal::Check;
use nsm_sdk_kernel::Ping;

/// More often than this nobody looks at a wire, nor gives up on one.
const LEAST_LOOK: std::time::Duration = std::time::Duration::from_millis(10);

/// The client: gives its pod a wire to each service it names, and keeps it.
#[derive(Clone, Debug, Parser)]
#[command(name = "nsc", version, after_help = AFTER_HELP)]
pub struct Settings {
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
    /// How long a token is valid that we sign; a negative time makes tokens that have expired, which everybody refuses
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m", value_parser = Duration::of_tokens)]
    pub(crate) max_token_lifetime: Duration,
    /// Whether to look by pings whether our wires live
    #[arg(
        long,
        env = "NSM_LIVENESS_CHECK_ENABLED",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub(crate) liveness_check_enabled: bool,
    /// The pause between two looks
    #[arg(long, env = "NSM_LIVENESS_CHECK_INTERVAL", default_value = "200ms")]
    pub(crate) liveness_check_interval: Duration,
    /// How long a wire may be silent until another endpoint is asked for
    #[arg(long, env = "NSM_LIVENESS_CHECK_TIMEOUT", default_value = "1s")]
    pub(crate) liveness_check_timeout: Duration,
    /// Whether names behind our wires are resolved for the pod, once an endpoint tells of DNS servers
    #[arg(
        long,
        env = "NSM_LOCAL_DNS_SERVER_ENABLED",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub(crate) local_dns_server_enabled: bool,
    /// Where the pod's programs ask for names then
    #[arg(long, env = "NSM_LOCAL_DNS_SERVER_ADDRESS", default_value = "127.0.0.1:53")]
    pub(crate) local_dns_server_address: SocketAddr,
    /// The file that tells them so, and whom we ask for all other names
    #[arg(long, env = "NSM_RESOLV_CONFIG_PATH", default_value = "/etc/resolv.conf")]
    pub(crate) resolv_config_path: PathBuf,
    /// Groups of services whose addresses may overlap: [url,url],[url]
    #[arg(long, env = "NSM_AWARENESS_GROUPS", default_value = "")]
    pub(crate) awareness_groups: String,
    /// Look at the pod's wires once and tell how they are, as JSON, in place of asking for them
    #[arg(long)]
    pub(crate) look: bool,
    #[command(flatten)]
    pub(crate) info: InfoSettings,
    #[command(flatten)]
    pub(crate) log: LogSettings,
    #[command(flatten)]
    pub(crate) observability: ObservabilitySettings,
}

impl Settings {
    /// How our wires are looked at, if they are.
    pub(crate) fn check(&self) -> Result<Option<Check>, Failure> {
        let (interval, timeout) = (
            self.liveness_check_interval.into(),
            self.liveness_check_timeout.into(),
        );
        if !self.liveness_check_enabled {
            return Ok(None);
        }
        if interval < LEAST_LOOK || timeout < LEAST_LOOK {
            let text = format!(
                "NSM_LIVENESS_CHECK_INTERVAL and NSM_LIVENESS_CHECK_TIMEOUT must be at least {LEAST_LOOK:?}; set \
                 NSM_LIVENESS_CHECK_ENABLED=false to look at no wire"
            );
            return Err(Failure::Settings(text));
        }
        Ok(Some(Check {
            liveness: Arc::new(Ping),
            interval,
            timeout,
        }))
    }
}

impl Settings {
    /// How the pod's resolver is found, if there is to be one.
    pub(crate) fn dns(&self) -> Option<nsm_sdk_dns::Settings> {
        self.local_dns_server_enabled.then(|| nsm_sdk_dns::Settings {
            listen_on: self.local_dns_server_address,
            resolv_conf: self.resolv_config_path.clone(),
        })
    }

    /// Makes the file that names the pod's resolver, where it is another one than every container has by itself.
    pub(crate) fn share_resolv_conf(&self) -> Result<(), Failure> {
        let path = &self.resolv_config_path;
        if !self.local_dns_server_enabled || path == Path::new(nsm_sdk_dns::RESOLV_CONF) {
            return Ok(());
        }
        nsm_sdk_dns::share(path).map_err(|error| {
            let text = format!(
                "{} (NSM_RESOLV_CONFIG_PATH) cannot be made a copy of {}: {error}; name a place that can be written, \
                 or set NSM_LOCAL_DNS_SERVER_ENABLED=false",
                path.display(),
                nsm_sdk_dns::RESOLV_CONF
            );
            Error::unavailable("resolv-conf", text).into()
        })
    }
}

impl nsm_sdk::app::Settings for Settings {
    const DEAD: &'static [&'static str] = &["NSM_LABELS", "NSM_MECHANISM"];

    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self) -> Option<String> {
        self.info.place()
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn observability(&self) -> Option<&ObservabilitySettings> {
        Some(&self.observability)
    }
}
