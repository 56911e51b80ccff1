// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::path::PathBuf;

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, LogSettings};

/// Tells people what becomes of a node's clients, by Events on their pods: a refusal with its reason code, the success
/// after it, and a wire that was healed. `agent-k8s ask QUESTION` answers about the node, as `nsm QUESTION` does.
///
/// The manager beside us tells us by NSM_REPORT_TO, and never waits for us. While the API server is away, Events wait.
/// Runs in a pod whose service account may write Events and look at pods, or with KUBECONFIG.
#[derive(Clone, Debug, Parser)]
#[command(name = "agent-k8s", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name in logs
    #[arg(long, env = "NSM_NAME", default_value = "agent-k8s")]
    pub(crate) name: String,
    /// The socket at which the manager tells us
    #[arg(long, env = "NSM_REPORT_TO", default_value = "/run/nsm-agent/report.sock")]
    pub(crate) report_to: PathBuf,
    /// The node that Events name as their source
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub(crate) node_name: String,
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
