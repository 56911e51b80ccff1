// SPDX-License-Identifier: Apache-2.0
//! What can be set, by flag or by environment variable.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use nsm_sdk::app::{AFTER_HELP, LogSettings};

/// Serves the Container Storage Interface to the kubelet of a node: ephemeral volumes that are folders of the node, read only.
#[derive(Clone, Debug, Parser)]
#[command(name = "csi-driver", version, after_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Our name in logs
    #[arg(long, env = "NSM_NAME", default_value = "csi-driver")]
    pub(crate) name: String,
    /// The name of our node
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: String,
    /// Which driver gives pods which folder: NAME=FOLDER, ...
    #[arg(
        long,
        env = "NSM_DRIVERS",
        value_delimiter = ',',
        default_value = "csi.networkservicemesh.io=/var/lib/networkservicemesh"
    )]
    pub(crate) drivers: Vec<Driver>,
    /// The folder of the kubelet
    #[arg(long, env = "NSM_KUBELET", default_value = "/var/lib/kubelet")]
    pub(crate) kubelet: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogSettings,
}

/// A driver, and the folder that its volumes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Driver {
    /// As manifests name it.
    pub(crate) name: String,
    /// The folder of the node.
    pub(crate) folder: PathBuf,
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, folder) = text.trim().split_once('=').ok_or("write NAME=FOLDER")?;
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let is_end = |letter: char| letter.is_ascii_alphanumeric();
        if !(1..=63).contains(&name.len())
            || !name.bytes().all(is_inner)
            || !name.starts_with(is_end)
            || !name.ends_with(is_end)
        {
            return Err(format!(
                "{name:?} is no name of a driver: letters, digits, dots and dashes make one"
            ));
        }
        if !folder.starts_with('/') {
            return Err(format!("{folder:?} is no absolute path"));
        }
        Ok(Self {
            name: name.into(),
            folder: folder.into(),
        })
    }
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
    fn drivers_are_names_and_folders() {
        let one = "csi.spiffe.io=/run/spire/sockets".parse();
        let expected = Driver {
            name: "csi.spiffe.io".into(),
            folder: "/run/spire/sockets".into(),
        };
        assert_eq!(one, Ok(expected));
        for wrong in ["", "a", "=/a", "a=b", "../a=/b", "a/b=/c", "-a=/b", "a.=/b"] {
            assert!(wrong.parse::<Driver>().is_err(), "{wrong:?}");
        }
    }
}
