// SPDX-License-Identifier: Apache-2.0
//! Wires to another node by WireGuard, between a forwarder of ours and one of theirs, which has wireguard-go and the
//! one port and the keys that the reference's forwarder has, and waits for the other end before it answers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use libtest_mimic::Trial;

use crate::Bench;
use crate::apart::{Apart, on_nodes, theirs, works};
use crate::mesh::choose;
use crate::mix::Hop;
use crate::peer;

/// The role of a forwarder of theirs that has WireGuard.
const ROLE: &str = "forwarder-wg";

/// Which forwarders are theirs; the client is on the first node.
const PAIRS: [&str; 3] = [
    "wireguard_go_forwarder1",
    "wireguard_go_forwarder2",
    "wireguard_go_forwarder1_forwarder2",
];

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let test = |name: &'static str| {
        bench.trial(name, async move |bench| {
            let [_, first, _, second] = theirs(name);
            let start = Apart::with("IP", None, |files, number, _| {
                let is_go = if number == 1 { first } else { second };
                choose(files, Hop::Forwarder, false)?;
                if is_go { with_wireguard(files) } else { Ok(()) }
            });
            on_nodes(bench, Box::pin(start), works).await
        })
    };
    PAIRS.map(test).into()
}

/// The next forwarder is theirs, in that role.
fn with_wireguard(files: &Path) -> Result<()> {
    let (file, peer) = (files.join(Hop::Forwarder.program()), peer::file()?);
    fs::remove_file(&file)?;
    let script = format!("#!/bin/sh\nexec {} {ROLE}\n", peer.display());
    fs::write(&file, script).context("cannot write a script")?;
    Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?)
}
