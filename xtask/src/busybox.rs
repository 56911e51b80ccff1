// SPDX-License-Identifier: Apache-2.0
//! The image of the containers that use wires, in examples and in tests.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::oci::{Entry, Image};
use crate::profile_folder;
use crate::tools;

/// Its name in manifests.
const NAME: &str = "docker.io/library/busybox:1.37";

/// The programs in it that tests and people use.
const APPLETS: [&str; 13] = [
    "sh", "sleep", "ping", "ip", "cat", "httpd", "id", "ls", "nc", "tail", "nslookup", "wc", "wget",
];

/// Debian's busybox, as the image that examples use.
pub(crate) fn image() -> Result<PathBuf> {
    tools::need(&[tools::BUSYBOX])?;
    let program = tools::find("busybox").context("busybox is not there")?;
    let links = APPLETS.map(|name| (format!("/bin/{name}"), Entry::Link("busybox".into())));
    let image = Image {
        name: NAME.into(),
        entries: [
            ("/bin/busybox".into(), Entry::Program(program)),
            ("/tmp".into(), Entry::Folder(0o1777)),
        ]
        .into_iter()
        .chain(links)
        .collect(),
        entrypoint: "/bin/sh".into(),
        user: "0:0".into(),
        created: "1970-01-01T00:00:00Z".into(),
        ..Image::default()
    };
    let archive = profile_folder("images")?.join("busybox.tar");
    image.write(&archive)?;
    Ok(archive)
}
