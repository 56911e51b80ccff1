// SPDX-License-Identifier: Apache-2.0
//! What lets programs of a pod find names behind its wires.
//!
//! The resolv.conf that Kubernetes gives containers is root's, and our client is not. So the pod gets a volume in which
//! the container that runs first makes a copy, the client changes it when an endpoint tells of DNS servers, and all
//! other containers have it in the place of their own.

use serde_json::json;

use super::volumes::Volume;
use crate::patch::{Patch, items, text};

/// The volume, and where containers of ours have it.
const NAME: &str = "nsm-resolv-conf";
const FOLDER: &str = "/run/nsm-resolv-conf";

/// The file there, which is the value of [`RESOLV_CONFIG_PATH`](crate::rules::RESOLV_CONFIG_PATH).
pub(super) const PATH: &str = "/run/nsm-resolv-conf/resolv.conf";

/// Its name, and where programs look for it.
const FILE: &str = "resolv.conf";
const PLACE: &str = "/etc/resolv.conf";

/// From which port on programs that are not root's may listen; DNS has 53.
const PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "53");

pub(super) fn volume() -> Volume {
    Volume::empty(NAME, FOLDER)
}

/// Lets the client listen for names, and every container of the pod have its file. Tells which ones have another.
pub(super) fn add(patch: &mut Patch) -> Vec<String> {
    let (name, value) = PORTS;
    super::add_sysctl(patch, name, value);
    let mut warnings = Vec::new();
    for list in ["initContainers", "containers"] {
        for number in 0..items(patch.document(), &["spec", list]).len() {
            let number = number.to_string();
            let path = ["spec", list, &number, "volumeMounts"];
            let mounts = items(patch.document(), &path);
            if mounts
                .iter()
                .any(|mount| text(mount, &["mountPath"]) == Some(PLACE))
            {
                let name = text(patch.document(), &["spec", list, &number, "name"]).unwrap_or_default();
                warnings.push(format!(
                    "container {name:?} has a {PLACE} of its own: it finds no names behind the pod's wires"
                ));
                continue;
            }
            let mount = json!({ "name": NAME, "mountPath": PLACE, "subPath": FILE });
            patch.append(&path, vec![mount]);
        }
    }
    warnings
}
