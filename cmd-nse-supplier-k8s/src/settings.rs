// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::path::PathBuf;

use clap::Parser;
use nsm_api::registry::{Destination, Match, NetworkService as Service};
use nsm_sdk::app::{AFTER_HELP, Duration, EndpointSettings, Failure, InfoSettings, LogSettings, labels};
use nsm_sdk::networkservice::supply::NODE;
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
    /// Whether we register the service, with matches for endpoints of the client's node and for us; otherwise somebody has
    #[arg(long, env = "NSM_REGISTER_SERVICE", default_value = "false", action = clap::ArgAction::Set)]
    pub(crate) register_service: bool,
    /// Labels of endpoints, key:value, beside their node's, in those matches
    #[arg(long, env = "NSM_ENDPOINT_LABELS", value_delimiter = ',')]
    pub(crate) endpoint_labels: Vec<String>,
    /// What the wires of that service carry: ETHERNET or IP
    #[arg(long, env = "NSM_PAYLOAD", default_value = "ETHERNET")]
    pub(crate) payload: String,
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
            payload: self.payload.clone(),
            labels: self.labels.clone(),
            register_service: false,
            unregister_itself: true,
            info: self.info.clone(),
        }
    }
}

impl Settings {
    /// The service, whose matches choose an endpoint of the client's node, and us when there is none. Errors: labels by
    /// which we cannot be told from endpoints.
    pub(crate) fn service(&self) -> Result<Service, Failure> {
        let (ours, mut theirs) = (labels(&self.labels)?, labels(&self.endpoint_labels)?);
        if ours.is_empty() || ours.iter().all(|(key, value)| theirs.get(key) == Some(value)) {
            let text = "NSM_REGISTER_SERVICE needs NSM_LABELS that endpoints do not have, as app:supplier";
            return Err(Failure::Settings(text.into()));
        }
        theirs.insert(NODE.into(), format!("{{{{.{NODE}}}}}"));
        let to = |destination_selector| {
            vec![Destination {
                destination_selector,
                ..Default::default()
            }]
        };
        let endpoints = Match {
            fallthrough: true,
            routes: to(theirs),
            ..Default::default()
        };
        let us = Match {
            routes: to(ours),
            ..Default::default()
        };
        Ok(Service {
            name: self.service_name.clone(),
            payload: self.payload.clone(),
            matches: vec![endpoints, us],
            ..Default::default()
        })
    }
}

impl nsm_sdk::app::Settings for Settings {
    const ALIASES: &'static [(&'static str, &'static str)] = &[("NSM_SERVICE_NAMES", "NSM_SERVICE_NAME")];

    fn name(&self) -> &str {
        &self.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(arguments: &[&str]) -> Result<Service, String> {
        let settings = Settings::parse_from([&["supplier"], arguments].concat());
        settings.service().map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_service_chooses_endpoints_of_the_clients_node_and_then_us() {
        let service = service(&["--labels=app:supplier", "--endpoint-labels=app:nse"]).expect("a service");
        let [endpoints, us] = &service.matches[..] else {
            panic!("{service:?}");
        };
        assert!(endpoints.fallthrough && !us.fallthrough);
        let selector = &endpoints.routes[0].destination_selector;
        assert_eq!(selector["nodeName"], "{{.nodeName}}");
        assert_eq!(selector["app"], "nse");
        assert_eq!(us.routes[0].destination_selector["app"], "supplier");
    }

    #[test]
    fn labels_that_endpoints_have_too_are_refused() {
        for bad in [
            &["--endpoint-labels=app:nse"][..],
            &["--labels=app:nse", "--endpoint-labels=app:nse"],
        ] {
            assert!(
                service(bad).is_err_and(|error| error.contains("NSM_LABELS")),
                "{bad:?}"
            );
        }
    }
}
