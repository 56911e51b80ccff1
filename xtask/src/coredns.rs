// SPDX-License-Identifier: Apache-2.0
//! The image of the DNS server beside an endpoint, in examples.

use std::path::PathBuf;

use anyhow::Result;

use crate::cluster::{self, Kubernetes};
use crate::oci::{Entry, Image};
use crate::profile_folder;

/// Its name in manifests.
const NAME: &str = "docker.io/coredns/coredns:1.12.0";

/// The CoreDNS that clusters have, under the name by which examples ask for it.
pub(crate) fn image() -> Result<PathBuf> {
    let program = cluster::build(Kubernetes::V1_34)?.join("coredns");
    let image = Image {
        name: NAME.into(),
        entries: vec![("/coredns".into(), Entry::Program(program))],
        entrypoint: "/coredns".into(),
        user: "0:0".into(),
        created: "1970-01-01T00:00:00Z".into(),
        ..Image::default()
    };
    let archive = profile_folder("images")?.join("coredns.tar");
    image.write(&archive)?;
    Ok(archive)
}
