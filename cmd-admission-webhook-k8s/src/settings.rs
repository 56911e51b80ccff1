// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use nsm_sdk::app::{AFTER_HELP, Failure, LogSettings};

/// Gives annotated pods a client of the mesh.
///
/// Runs in a pod whose service account may do what the manifest lists, or with KUBECONFIG.
#[derive(Clone, Debug, Parser)]
#[command(name = "admission-webhook-k8s", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name, and that of our MutatingWebhookConfiguration where we write it
    #[arg(long, env = "NSM_NAME", default_value = "admission-webhook-k8s")]
    pub(crate) name: String,
    /// The service by which the API server reaches us
    #[arg(long, env = "NSM_SERVICE_NAME", default_value = "default")]
    pub(crate) service_name: String,
    /// Our namespace
    #[arg(long, env = "NSM_NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// Where we listen
    #[arg(long, env = "NSM_LISTEN_ON", default_value = "tcp://:443")]
    pub(crate) listen_on: String,
    /// The annotation whose value is what a pod is connected to
    #[arg(long, env = "NSM_ANNOTATION", default_value = "networkservicemesh.io")]
    pub(crate) annotation: String,
    /// Labels that such pods get: key:value, ...
    #[arg(long, env = "NSM_LABELS", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// The variable by which clients are told what to connect to
    #[arg(long, env = "NSM_NSURL_ENV_NAME", default_value = "NSM_NETWORK_SERVICES")]
    pub(crate) nsurl_env_name: String,
    /// Pods get their identity as a certificate of this signer, as networkservicemesh.io/spiffe, in place of a socket
    #[arg(long, env = "NSM_SIGNER_NAME", default_value = "")]
    pub(crate) signer_name: String,
    /// Images that run and end before everything else in the pod
    #[arg(long, env = "NSM_INIT_CONTAINER_IMAGES", value_delimiter = ',')]
    pub(crate) init_container_images: Vec<String>,
    /// Images that run as long as the pod does
    #[arg(long, env = "NSM_CONTAINER_IMAGES", value_delimiter = ',')]
    pub(crate) container_images: Vec<String>,
    /// More variables for those: KEY=VALUE, ...
    #[arg(long, env = "NSM_ENVS", value_delimiter = ',')]
    pub(crate) envs: Vec<String>,
    /// Whether programs of the pod find names behind its wires: their resolv.conf is one that the images may change, and
    /// the first of those that run before makes it, as cmd-nsc-init does
    #[arg(
        long,
        env = "NSM_SHARE_RESOLV_CONF",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub(crate) share_resolv_conf: bool,
    /// Where our certificate comes from
    #[arg(
        long,
        env = "NSM_WEBHOOK_MODE",
        default_value = "spire",
        ignore_case = true,
        value_enum
    )]
    pub(crate) webhook_mode: Mode,
    /// The secret by which all of us are one authority, in mode selfregister without files
    #[arg(long, env = "NSM_SECRET_NAME", default_value = "admission-webhook-k8s")]
    pub(crate) secret_name: String,
    /// Our certificate in PEM, in mode selfregister; a new one is read when it changes
    #[arg(long, env = "NSM_CERT_FILE_PATH")]
    pub(crate) cert_file_path: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "NSM_KEY_FILE_PATH")]
    pub(crate) key_file_path: Option<PathBuf>,
    /// Its authorities, written into the configuration; without it that part is left to others, as cert-manager
    #[arg(long, env = "NSM_CA_BUNDLE_FILE_PATH")]
    pub(crate) ca_bundle_file_path: Option<PathBuf>,
    /// The most memory that each container takes; nothing for no limit
    #[arg(long, env = "NSM_SIDECAR_LIMITS_MEMORY", default_value = "80Mi")]
    pub(crate) sidecar_limits_memory: String,
    /// The most processor time that each container takes; nothing for no limit
    #[arg(long, env = "NSM_SIDECAR_LIMITS_CPU", default_value = "200m")]
    pub(crate) sidecar_limits_cpu: String,
    /// The memory that is kept free for each container
    #[arg(long, env = "NSM_SIDECAR_REQUESTS_MEMORY", default_value = "40Mi")]
    pub(crate) sidecar_requests_memory: String,
    /// The processor time that is kept free for each container
    #[arg(long, env = "NSM_SIDECAR_REQUESTS_CPU", default_value = "100m")]
    pub(crate) sidecar_requests_cpu: String,

    #[command(flatten)]
    pub(crate) log: LogSettings,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// It is our SVID; who set up SPIRE has written the configuration
    Spire,
    /// It is ours or a file's, and we write the configuration
    Selfregister,
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// The chain, leaf first.
    pub(crate) certificate: PathBuf,
    /// The leaf's key.
    pub(crate) key: PathBuf,
    /// Who has signed it.
    pub(crate) authorities: Option<PathBuf>,
}

impl Settings {
    /// The files of our certificate, if it is not ours.
    pub(crate) fn files(&self) -> Result<Option<Files>, Failure> {
        let set = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        match (set(&self.cert_file_path), set(&self.key_file_path)) {
            (Some(certificate), Some(key)) => Ok(Some(Files {
                certificate,
                key,
                authorities: set(&self.ca_bundle_file_path),
            })),
            (None, None) if set(&self.ca_bundle_file_path).is_none() => Ok(None),
            _ => Err(Failure::Settings(
                "set both NSM_CERT_FILE_PATH and NSM_KEY_FILE_PATH, or no file for a certificate of our own"
                    .to_string(),
            )),
        }
    }
}

impl nsm_sdk::app::Settings for Settings {
    const DEAD: &'static [&'static str] = &["NSM_KUBELET_QPS"];

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

    fn files(arguments: &[&str]) -> Result<Option<Files>, String> {
        let settings = Settings::parse_from([&["webhook"], arguments].concat());
        settings.files().map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_certificate_of_files_has_its_key() {
        assert_eq!(files(&[]), Ok(None));
        let both = files(&["--cert-file-path=/a", "--key-file-path=/b"]);
        assert_eq!(
            both.map(|files| files.map(|files| files.authorities)),
            Ok(Some(None))
        );
        for half in [
            ["--cert-file-path=/a"],
            ["--key-file-path=/b"],
            ["--ca-bundle-file-path=/c"],
        ] {
            assert!(
                files(&half).is_err_and(|error| error.contains("both")),
                "{half:?}"
            );
        }
    }

    #[test]
    fn the_mode_is_read_in_any_case() {
        let settings = Settings::parse_from(["webhook", "--webhook-mode=SelfRegister"]);
        assert_eq!(settings.webhook_mode, Mode::Selfregister);
        assert_eq!(Settings::parse_from(["webhook"]).webhook_mode, Mode::Spire);
    }
}
