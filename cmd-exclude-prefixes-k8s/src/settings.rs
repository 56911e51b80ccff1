// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use nsm_sdk::app::{AFTER_HELP, LogSettings};

/// Collects the prefixes that the cluster uses and writes them where managers read what no endpoint may give out.
///
/// They come from NSM_EXCLUDED_PREFIXES, the pods' and the services' networks of kubeadm-config, the nodes' networks of
/// pods, the services' networks (or, where the cluster has no ServiceCIDR, the services' own addresses), and a ConfigMap
/// of the user. All of it is followed, and something is written only when it differs. While the API server is away
/// nothing changes. Runs in a pod whose service account may read what the manifest lists, or with KUBECONFIG.
#[derive(Clone, Debug, Parser)]
#[command(name = "exclude-prefixes-k8s", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name in logs
    #[arg(long, env = "NSM_NAME", default_value = "exclude-prefixes-k8s")]
    pub(crate) name: String,
    /// Prefixes to exclude, whatever the cluster says
    #[arg(long, env = "NSM_EXCLUDED_PREFIXES", value_delimiter = ',')]
    pub(crate) excluded_prefixes: Vec<String>,
    /// The namespace of the user's ConfigMap
    #[arg(long, env = "NSM_CONFIG_MAP_NAMESPACE", default_value = "default")]
    pub(crate) config_map_namespace: String,
    /// Its name
    #[arg(long, env = "NSM_CONFIG_MAP_NAME", default_value = "excluded-prefixes-config")]
    pub(crate) config_map_name: String,
    /// The key in it whose value is YAML with a list named prefixes
    #[arg(
        long,
        env = "NSM_CONFIG_MAP_KEY",
        default_value = "excluded_prefixes_input.yaml"
    )]
    pub(crate) config_map_key: String,
    /// Whether a file is written, or a ConfigMap in our own namespace
    #[arg(
        long,
        env = "NSM_PREFIXES_OUTPUT_TYPE",
        default_value = "file",
        ignore_case = true,
        value_enum
    )]
    pub(crate) prefixes_output_type: OutputType,
    /// The file
    #[arg(
        long,
        env = "NSM_OUTPUT_FILE_PATH",
        default_value = "/var/lib/networkservicemesh/config/excluded_prefixes.yaml"
    )]
    pub(crate) output_file_path: PathBuf,
    /// The ConfigMap
    #[arg(long, env = "NSM_OUTPUT_CONFIG_MAP_NAME", default_value = "nsm-config")]
    pub(crate) output_config_map_name: String,
    /// The key in it
    #[arg(
        long,
        env = "NSM_OUTPUT_CONFIG_MAP_KEY",
        default_value = "excluded_prefixes_output.yaml"
    )]
    pub(crate) output_config_map_key: String,
    /// Where our health can be asked for, once everything that the cluster uses is written; nowhere by default
    #[arg(long, env = "NSM_LISTEN_ON", value_delimiter = ',')]
    pub(crate) listen_on: Vec<String>,

    #[command(flatten)]
    pub(crate) log: LogSettings,
}

/// Where the prefixes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputType {
    /// Into a file that the manager beside us reads
    File,
    /// Into a ConfigMap that managers mount
    ConfigMap,
}

impl nsm_sdk::app::Settings for Settings {
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

    #[test]
    fn the_kind_of_output_is_written_as_the_predecessors_manifests_do() {
        let parse = |value: &str| {
            Settings::try_parse_from(["exclude", &format!("--prefixes-output-type={value}")])
                .map(|settings| settings.prefixes_output_type)
        };
        assert_eq!(parse("config-map").ok(), Some(OutputType::ConfigMap));
        assert_eq!(parse("File").ok(), Some(OutputType::File));
        assert!(parse("secret").is_err());
    }
}
