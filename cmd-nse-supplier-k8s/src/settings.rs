// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::path::PathBuf;

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, Duration, EndpointSettings, InfoSettings, LogSettings};
use nsm_sdk::policy;

/// Has endpoints of a service started when clients ask for them, one for each node.
///
/// It is the endpoint that the service's matches choose when no other one fits:
///
///   matches:
///   - fallthrough: true
///     routes: [{destination_selector: {app: nse, nodeName: "{{.nodeName}}"}}]
///   - routes: [{destination_selector: {app: supplier}}]
///
/// The client's request waits until the endpoint is there. An endpoint ends by itself (NSM_IDLE_TIMEOUT of nse-icmp);
/// what is left of it in Kubernetes is removed.
///
/// NSM_POD_DESCRIPTION_FILE is a pod in YAML, and a template: {{ index .Labels "nodeName" }} and {{ .Labels.nodeName }}
/// are labels of the client, {{ .NetworkService }}, {{ .Id }} and {{ .Payload }} belong to its connection, and
/// {{ uuid }} is a name for each node and service. Values take the place of texts and never of structure. Without
/// Kubernetes NSM_COMMAND, which may use the same, is what starts an endpoint and runs as long as it does.
#[derive(Clone, Debug, Parser)]
#[command(name = "nse-supplier-k8s", version, after_help = AFTER_HELP, verbatim_doc_comment)]
pub(crate) struct Settings {
    /// Our name; must be ours alone in the registry
    #[arg(long, env = "NSM_NAME", default_value = "nse-supplier-k8s")]
    pub(crate) name: String,
    /// The manager of our node
    #[arg(
        long,
        env = "NSM_CONNECT_TO",
        default_value = "unix:///var/lib/networkservicemesh/nsm.io.sock"
    )]
    pub(crate) connect_to: String,
    /// Where we listen; a socket in a fresh directory by default
    #[arg(long, env = "NSM_LISTEN_ON")]
    pub(crate) listen_on: Option<String>,
    /// How long a token is valid that we sign
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m")]
    pub(crate) max_token_lifetime: Duration,
    /// How long dialling may take
    #[arg(long, env = "NSM_DIAL_TIMEOUT", default_value = "5s")]
    pub(crate) dial_timeout: Duration,
    /// Policies for the answers of registries that we call
    #[arg(long, env = "NSM_REGISTRY_CLIENT_POLICIES", default_value = policy::REGISTRY_CLIENT, value_delimiter = ',')]
    pub(crate) registry_client_policies: Vec<String>,
    /// The service whose endpoints we have started
    #[arg(long, env = "NSM_SERVICE_NAME", default_value = "nse-supplier-k8s")]
    pub(crate) service_name: String,
    /// Our labels, key:value, by which the service's matches choose us, and no endpoint
    #[arg(long, env = "NSM_LABELS", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// How long a started endpoint may take until it is registered
    #[arg(long, env = "NSM_START_TIMEOUT", default_value = "2m")]
    pub(crate) start_timeout: Duration,
    /// How many endpoints may run at the same time
    #[arg(long, env = "NSM_MAX_ENDPOINTS", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) max_endpoints: u32,
    /// The pod of an endpoint: a template, read for each start
    #[arg(long, env = "NSM_POD_DESCRIPTION_FILE", default_value = "pod.yaml")]
    pub(crate) pod_description_file: PathBuf,
    /// The namespace of the pods
    #[arg(long, env = "NSM_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// What starts an endpoint in the place of Kubernetes: a program and its arguments, each a template; no shell
    #[arg(long, env = "NSM_COMMAND", default_value = "")]
    pub(crate) command: String,
    /// The variables of the command, KEY=VALUE, ..., each value a template; of ours it gets those that are no settings
    #[arg(long, env = "NSM_COMMAND_ENVS", value_delimiter = ',')]
    pub(crate) command_envs: Vec<String>,
    /// Where is kept which commands run; suppliers of one machine share it
    #[arg(
        long,
        env = "NSM_STATE_DIR",
        default_value = "/var/lib/networkservicemesh/supplier"
    )]
    pub(crate) state_dir: PathBuf,
    /// Where we run
    #[command(flatten)]
    pub(crate) info: InfoSettings,

    #[command(flatten)]
    pub(crate) log: LogSettings,
}

impl Settings {
    /// Those that every endpoint has.
    pub(crate) fn endpoint(&self) -> EndpointSettings {
        EndpointSettings {
            name: self.name.clone(),
            connect_to: self.connect_to.clone(),
            listen_on: self.listen_on.clone(),
            max_token_lifetime: self.max_token_lifetime,
            dial_timeout: self.dial_timeout,
            registry_client_policies: self.registry_client_policies.clone(),
            service_names: vec![self.service_name.clone()],
            payload: "ETHERNET".into(),
            labels: self.labels.clone(),
            register_service: false,
            unregister_itself: true,
            info: self.info.clone(),
        }
    }
}

impl nsm_sdk::app::Settings for Settings {
    const ALIASES: &'static [(&'static str, &'static str)] = &[("NSM_SERVICE_NAMES", "NSM_SERVICE_NAME")];
    const DEAD: &'static [&'static str] = &["NSM_PAYLOAD"];

    fn name(&self) -> &str {
        &self.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}
