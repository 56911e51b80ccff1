// SPDX-License-Identifier: Apache-2.0
//! Runs what needs a cluster on one of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::cluster::{self, Cluster, Kubernetes};
use crate::report::{Tally, run_tests};
use crate::{examples, go, profile_folder};

/// How many nodes the cluster has.
const NODES: u32 = 2;

/// The tests of programs beside an API server that they start, kill and start again, and those of the mesh: all that are
/// called so, for a package alone is built with other features.
pub(crate) fn tests(version: Kubernetes) -> Result<Tally> {
    let spire = go::spire()?;
    with_cluster("test", version, &cluster::images_for_development()?, |cluster| {
        let mut tests = Command::new("cargo");
        tests
            .args(["test", "--workspace", "--no-fail-fast", "--test", "kubernetes"])
            .args(["--", "--nocapture"])
            .env("CLUSTER_PROGRAMS", cluster::build(version)?)
            .env("NSM_SPIRE", &spire);
        run_tests(at(cluster, &mut tests)?)
    })
}

/// What pages could leave behind on a cluster. Forwarders come back by other names, and services that endpoints have
/// registered stay, as nobody owns them.
const LEAK_CHECK: &str = "kubectl get namespaces,configmaps,deployments,daemonsets,clusterroles,clusterrolebindings \
                          -A -o name | sort; kubectl get nse -A -o name 2>/dev/null | grep -v /forwarder | sort";

/// What `nsm-md` is told of pages on a cluster: pods are slower than processes.
pub(crate) const FOR_PAGES: [&str; 4] = ["--timeout", "2m", "--leak-check", LEAK_CHECK];

/// Runs the pages of `deployments/examples`, word for word.
pub(crate) fn examples(version: Kubernetes) -> Result<Tally> {
    with_cluster(
        "examples",
        version,
        &cluster::images_for_development()?,
        |cluster| {
            examples::run("cluster", &[programs_for_pages()?], |pages| {
                at(cluster, pages.args(FOR_PAGES)).map(drop)
            })
        },
    )
}

/// A folder with what pages call by its name alone: kubectl, and its plugin.
pub(crate) fn programs_for_pages() -> Result<PathBuf> {
    let folder = profile_folder("examples")?;
    fs::create_dir_all(&folder)?;
    let (kubectl, program) = (folder.join("kubectl"), cluster::program()?);
    let script = format!("#!/bin/sh\nexec '{}' kubectl \"$@\"\n", program.display());
    fs::write(&kubectl, script)?;
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
    let plugin = folder.join("kubectl-nsm");
    if plugin.is_symlink() {
        fs::remove_file(&plugin)?;
    }
    symlink(profile_folder("debug")?.join("nsm"), plugin)?;
    Ok(folder)
}

/// Starts a cluster of this version of Kubernetes, gives it images, does something on it, and ends it, whatever became of that.
pub(crate) fn with_cluster<T>(
    name: &str,
    version: Kubernetes,
    archives: &[PathBuf],
    work: impl FnOnce(&Cluster) -> Result<T>,
) -> Result<T> {
    let cluster = Cluster::named(&format!("{name}-{}", std::process::id()))?;
    let done = cluster.up(version, NODES).and_then(|()| {
        cluster.load(archives)?;
        work(&cluster)
    });
    let ended = cluster.down();
    let done = done?;
    ended.map(|()| done)
}

/// Lets a command find a cluster.
pub(crate) fn at<'a>(cluster: &Cluster, command: &'a mut Command) -> Result<&'a mut Command> {
    Ok(command
        .env("NSM_CLUSTER", cluster::program()?)
        .envs(cluster.variables()))
}
