// SPDX-License-Identifier: Apache-2.0
//! What `cargo xtask test` can run.

use std::process::Command;

use crate::cluster::Kubernetes;
use crate::examples;
use crate::go;
use crate::kubernetes;
use crate::lint;
use crate::previous;
use crate::profile_folder;
use crate::report::{Report, run, run_tests};
use crate::tools::{
    BUSYBOX, CNI, CONTAINERD, DIG, DNSMASQ, GO, IP, KERNEL, MODPROBE, NFT, NSENTER, PING, PROMETHEUS, QEMU,
    RUNC, SETPRIV, SS, STRIP, TIMEOUT, Tool, UNSHARE, VENV, WG, WIREGUARD_GO,
};
use crate::vm;

/// A group of tests or checks that is run by its name.
#[derive(Debug)]
pub(crate) struct Suite {
    /// What people type.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// When it runs without being named.
    pub(crate) runs: Runs,
    /// The programs that it needs.
    pub(crate) tools: &'static [Tool],
    /// Runs it.
    pub(crate) run: fn(&mut Report),
}

/// When a suite runs without being named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// For every change.
    Always,
    /// With `--all`: it takes too long for every change.
    WithAll,
    /// Never: it is a part of another suite.
    WithAnother,
    /// Never: it builds Kubernetes, which takes longer than everything else together.
    Named,
}

/// Every suite, in the order in which they run.
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "lint",
        about: "format, clippy, dependencies",
        runs: Runs::Always,
        tools: &[GO],
        run: lint::checks,
    },
    Suite {
        name: "workspace",
        about: "the tests of every crate, on virtual time or the real kernel, and the documents' examples",
        runs: Runs::Always,
        tools: WORKSPACE,
        run: workspace,
    },
    Suite {
        name: "examples",
        about: "the pages of deployments/examples, word for word, in namespaces",
        runs: Runs::Always,
        tools: SYSTEM,
        run: examples,
    },
    Suite {
        name: "netns",
        about: "of these, the real programs on the real kernel",
        runs: Runs::WithAnother,
        tools: SYSTEM,
        run: netns,
    },
    Suite {
        name: "interop",
        about: "of these, our programs mixed with programs on the Go SDK, which is built for it",
        runs: Runs::WithAnother,
        tools: MIXED,
        run: interop,
    },
    Suite {
        name: "spire",
        about: "mixed meshes under identities of SPIRE, which is built for it",
        runs: Runs::WithAll,
        tools: MIXED,
        run: spire,
    },
    Suite {
        name: "previous",
        about: "our programs mixed with those of the commit before, which are built for it",
        runs: Runs::WithAll,
        tools: MIXED_WITH_OURS,
        run: previous,
    },
    Suite {
        name: "soak",
        about: "10,000 wires that come and go on the real kernel, with programs built for release",
        runs: Runs::WithAll,
        tools: SYSTEM,
        run: soak,
    },
    Suite {
        name: "kubernetes",
        about: "the mesh in a real Kubernetes of two nodes on this machine, which needs root",
        runs: Runs::Named,
        tools: CLUSTER,
        run: kubernetes,
    },
    Suite {
        name: "kubernetes-1.37",
        about: "the same in the newest Kubernetes, and what only that can",
        runs: Runs::Named,
        tools: CLUSTER,
        run: newest_kubernetes,
    },
    Suite {
        name: "vm",
        about: "tunnels by the kernel's WireGuard and VXLAN, on Debian's kernel in QEMU, for this one may lack them",
        runs: Runs::WithAll,
        tools: MACHINE,
        run: machine,
    },
];

/// What tests of real programs start and look with.
const SYSTEM: &[Tool] = &[IP, PING, UNSHARE, NSENTER, SETPRIV, SS, DNSMASQ, DIG, PROMETHEUS];

/// What tests of mixed meshes build and start.
const MIXED: &[Tool] = &[IP, PING, UNSHARE, NSENTER, SETPRIV, GO];

/// What those start that are mixed with programs of an earlier commit.
const MIXED_WITH_OURS: &[Tool] = &[IP, PING, UNSHARE, NSENTER, SETPRIV];

/// What tests of single crates start and look with, too.
const WORKSPACE: &[Tool] = &[
    IP,
    PING,
    UNSHARE,
    NSENTER,
    SETPRIV,
    PROMETHEUS,
    SS,
    DNSMASQ,
    DIG,
    WG,
    WIREGUARD_GO,
    GO,
];

/// What boots another kernel, and what its tests start and look with.
pub(crate) const MACHINE: &[Tool] = &[
    QEMU,
    KERNEL,
    MODPROBE,
    VENV,
    STRIP,
    TIMEOUT,
    IP,
    PING,
    UNSHARE,
    NSENTER,
    SETPRIV,
    PROMETHEUS,
    SS,
    WG,
    WIREGUARD_GO,
];

fn workspace(report: &mut Report) {
    build(report);
    report.step("tests", || {
        run_tests(Command::new("cargo").args(["test", "--workspace", "--no-fail-fast"]))
    });
}

fn examples(report: &mut Report) {
    build(report);
    report.step("examples", examples::in_namespaces);
}

fn netns(report: &mut Report) {
    build(report);
    report.step("netns", || {
        run_tests(Command::new("cargo").args(["test", "--workspace", "--test", "netns"]))
    });
}

fn interop(report: &mut Report) {
    build(report);
    report.step("interop", || {
        run_tests(Command::new("cargo").args(["test", "--workspace", "--test", "interop"]))
    });
}

/// The same programs, and SPIRE in the place of our issuer.
fn spire(report: &mut Report) {
    build(report);
    report.step("spire", || {
        run_tests(
            Command::new("cargo")
                .args(["test", "--package", "nsm-tests", "--test", "interop", "spire_"])
                .env("NSM_SPIRE", go::spire()?),
        )
    });
}

/// The same tests of mixtures, with the programs of an earlier commit in the place of those on the Go SDK.
fn previous(report: &mut Report) {
    build(report);
    report.step("previous", || {
        run_tests(
            Command::new("cargo")
                .args(["test", "--workspace", "--test", "interop"])
                .env(previous::PROGRAMS, previous::programs()?),
        )
    });
}

fn build(report: &mut Report) {
    report.check("build", || run(&mut everything()));
}

/// Builds everything with the features that tests need, so that system tests find the programs that they start and
/// nothing is built twice.
pub(crate) fn everything() -> Command {
    let mut build = Command::new("cargo");
    build.args(["build", "--workspace", "--lib", "--bins", "--tests", "--examples"]);
    build
}

/// Builds the programs as people run them.
fn build_for_release(report: &mut Report) {
    report.check("build for release", || {
        run(Command::new("cargo").args(["build", "--release", "--workspace", "--bins"]))
    });
}

/// Counts everything before and after many wires of the programs as people run them.
fn soak(report: &mut Report) {
    build_for_release(report);
    report.step("soak", || {
        run_tests(
            Command::new("cargo")
                .args(["test", "--package", "nsm-tests", "--test", "netns", "soak"])
                .env("NSM_PROGRAMS", profile_folder("release")?)
                .env("NSM_LOG_LEVEL", "INFO")
                .env("NSM_SOAK_CYCLES", "10000"),
        )
    });
}

/// What runs a cluster, and what its pods run.
const CLUSTER: &[Tool] = &[GO, CONTAINERD, RUNC, CNI, NFT, IP, NSENTER, STRIP, BUSYBOX];

fn kubernetes(report: &mut Report) {
    in_kubernetes(report, Kubernetes::V1_34);
}

fn newest_kubernetes(report: &mut Report) {
    in_kubernetes(report, Kubernetes::V1_37);
}

fn in_kubernetes(report: &mut Report, version: Kubernetes) {
    build(report);
    report.step("kubernetes", || kubernetes::tests(version));
    report.step("examples", || kubernetes::examples(version));
}

fn machine(report: &mut Report) {
    build(report);
    report.step("vm", vm::tests);
}
