// SPDX-License-Identifier: Apache-2.0
//! Runs the tests that need a cluster, on one of their own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cluster::{self, Cluster, Kubernetes};
use crate::oci::{Entry, Image};
use crate::profile_folder;
use crate::report::{Tally, run_tests};
use crate::tools;

/// How many nodes the cluster has.
const NODES: u32 = 2;

/// The image of the containers that use wires in examples, by the name that it has there.
const BUSYBOX: &str = "docker.io/library/busybox:1.37";

/// The programs in it that tests and people use.
const APPLETS: [&str; 8] = ["sh", "sleep", "ping", "ip", "cat", "ls", "nslookup", "wget"];

/// The registry on an API server that the tests start, kill and start again.
pub(crate) fn registry_tests() -> Result<Tally> {
    let programs = cluster::build(Kubernetes::V1_34)?;
    let mut tests = Command::new("cargo");
    tests
        .args(["test", "--package", "cmd-registry-k8s", "--test", "kubernetes"])
        .env("CLUSTER_PROGRAMS", programs);
    run_tests(&mut tests)
}

/// Starts a cluster, gives it the images of all programs, runs the tests, and ends the cluster, whatever became of them.
pub(crate) fn tests() -> Result<Tally> {
    let programs = cluster::build(Kubernetes::V1_34)?;
    let mut archives = cluster::images_for_development()?;
    archives.push(busybox()?);
    let cluster = Cluster::named(&format!("test-{}", std::process::id()))?;
    let tested = cluster.up(Kubernetes::V1_34, NODES).and_then(|()| {
        cluster.load(&archives)?;
        let mut tests = Command::new("cargo");
        tests
            .args([
                "test",
                "--package",
                "nsm-tests",
                "--test",
                "kubernetes",
                "--",
                "--nocapture",
            ])
            .env("NSM_CLUSTER", cluster::program()?)
            .env("CLUSTER_PROGRAMS", programs)
            .envs(cluster.variables());
        run_tests(&mut tests)
    });
    let ended = cluster.down();
    let tally = tested?;
    ended.map(|()| tally)
}

/// Debian's busybox, as the image that examples use.
fn busybox() -> Result<PathBuf> {
    let program = tools::find("busybox").context("busybox is not there")?;
    let links = APPLETS.map(|name| (format!("/bin/{name}"), Entry::Link("busybox".into())));
    let image = Image {
        name: BUSYBOX.into(),
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
