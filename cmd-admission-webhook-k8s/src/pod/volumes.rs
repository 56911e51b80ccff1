// SPDX-License-Identifier: Apache-2.0
//! What pods get of their node, and their identity.

use serde_json::{Value, json};

use super::{Level, resolver};
use crate::rules::Rules;

/// The socket of SPIFFE's Workload API.
const IDENTITY_SOCKET: (&str, &str) = ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/sockets/agent.sock");

/// Or the folder of a certificate.
const IDENTITY_FOLDER: (&str, &str) = ("NSM_IDENTITY_DIR", "/run/nsm-identity");

/// A volume of a pod, and where our containers have it.
pub(super) struct Volume {
    pub(super) name: &'static str,
    path: &'static str,
    is_read_only: bool,
    /// As it is in the list of the pod's volumes.
    pub(super) object: Value,
}

/// A directory of the node, and the driver that gives it to pods that may have none.
struct Directory {
    name: &'static str,
    path: &'static str,
    driver: &'static str,
}

const IDENTITIES: Directory = Directory {
    name: "spire-agent-socket",
    path: "/run/spire/sockets",
    driver: "csi.spiffe.io",
};

const MESH: Directory = Directory {
    name: "nsm-socket",
    path: "/var/lib/networkservicemesh",
    driver: "csi.networkservicemesh.io",
};

/// What every pod gets that is let do as much as `level` says, and that has a resolver of its own or not.
pub(super) fn of(rules: &Rules, level: Level, has_resolver: bool) -> Vec<Volume> {
    let identity = match &rules.signer {
        Some(signer) => certificate(signer),
        None => IDENTITIES.volume(level),
    };
    let mut volumes = vec![identity, MESH.volume(level)];
    volumes.extend(has_resolver.then(resolver::volume));
    volumes
}

/// The variable by which a client finds its identity, and its value.
pub(super) fn identity(rules: &Rules) -> (&'static str, &'static str) {
    match rules.signer {
        Some(_) => IDENTITY_FOLDER,
        None => IDENTITY_SOCKET,
    }
}

impl Directory {
    fn volume(&self, level: Level) -> Volume {
        let object = match level {
            // Made where it is not there, so that a pod starts on a node before the mesh does, and waits for it.
            Level::Privileged => json!({
                "name": self.name, "hostPath": { "path": self.path, "type": "DirectoryOrCreate" },
            }),
            Level::Baseline | Level::Restricted => json!({
                "name": self.name, "csi": { "driver": self.driver, "readOnly": true },
            }),
        };
        Volume {
            name: self.name,
            path: self.path,
            is_read_only: true,
            object,
        }
    }
}

/// A key that the kubelet makes, its certificate, and who has signed it: the pod waits for them.
fn certificate(signer: &str) -> Volume {
    let name = "nsm-identity";
    Volume {
        name,
        path: IDENTITY_FOLDER.1,
        is_read_only: true,
        object: json!({ "name": name, "projected": { "sources": [
            { "podCertificate": {
                "signerName": signer, "keyType": "ECDSAP256",
                "keyPath": "tls.key", "certificateChainPath": "tls.crt",
            } },
            { "clusterTrustBundle": { "signerName": signer, "labelSelector": {}, "path": "ca.crt" } },
        ] } }),
    }
}

impl Volume {
    /// An empty one, which containers of ours write.
    pub(super) fn empty(name: &'static str, path: &'static str) -> Self {
        Self {
            name,
            path,
            is_read_only: false,
            object: json!({ "name": name, "emptyDir": {} }),
        }
    }

    /// Where a container of ours has it.
    pub(super) fn mount(&self) -> Value {
        let mut mount = json!({ "name": self.name, "mountPath": self.path });
        if self.is_read_only {
            mount["readOnly"] = json!(true);
        }
        mount
    }

    /// Whether another volume of this name is the same place.
    pub(super) fn is(&self, other: &Value) -> bool {
        let places = [
            "/hostPath/path",
            "/csi/driver",
            "/emptyDir",
            "/projected/sources/0/podCertificate/signerName",
        ];
        places
            .iter()
            .all(|place| other.pointer(place) == self.object.pointer(place))
    }
}
