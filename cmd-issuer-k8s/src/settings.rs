// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::path::PathBuf;

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, LogSettings};

/// Gives pods their identities where there is no SPIRE: by the SPIFFE Workload API to those of its node, or by signing what
/// kubelets ask for.
#[derive(Clone, Debug, Parser)]
#[command(name = "issuer-k8s", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name in logs
    #[arg(long, env = "NSM_NAME", default_value = "issuer")]
    pub(crate) name: String,
    /// The trust domain
    #[arg(long, env = "NSM_TRUST_DOMAIN", default_value = "k8s.nsm")]
    pub(crate) trust_domain: String,
    /// The socket that pods find
    #[arg(long, env = "NSM_SOCKET", default_value = "/run/spire/sockets/agent.sock")]
    pub(crate) socket: PathBuf,
    /// How long an identity is valid; it is renewed at half of that
    #[arg(long, env = "NSM_LIFETIME", default_value = "1h")]
    pub(crate) lifetime: Duration,
    /// Serve no socket, but sign the certificates of pods that name this signer, as networkservicemesh.io/spiffe
    #[arg(long, env = "NSM_SIGNER_NAME", default_value = "")]
    pub(crate) signer_name: String,
    /// The namespace of the secret
    #[arg(long, env = "NSM_NAMESPACE", default_value = "nsm-system")]
    pub(crate) namespace: String,
    /// The secret with the authority that the issuers of all nodes share; made when there is none
    #[arg(long, env = "NSM_SECRET", default_value = "nsm-issuer")]
    pub(crate) secret: String,
    /// The folder in which the kubelet keeps the logs of its pods
    #[arg(long, env = "NSM_POD_LOGS", default_value = "/var/log/pods")]
    pub(crate) pod_logs: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogSettings,
}

impl nsm_sdk::app::Settings for Settings {
    fn name(&self) -> &str {
        &self.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}
