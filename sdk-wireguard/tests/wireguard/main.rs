// SPDX-License-Identifier: Apache-2.0
//! Tunnels on the real kernel, between nodes and pods that the tests make for themselves.
//!
//! Works as root and as an ordinary user, where `/dev/net/tun` is: before it starts any thread, the binary runs itself
//! again in namespaces of its own. What the engines did is looked at with `ip`, `ping`, `wg` and `/proc`, not with their own code. Each test runs with
//! every engine that this kernel has; where it has no WireGuard the binary says so at its start.
#![forbid(unsafe_code)]

mod fault;
mod life;
mod logs;
mod many;
mod other;
mod traffic;
mod world;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use nsm_sdk_wireguard::Kind;

/// Set in the copy of the process that is inside.
const INSIDE: &str = "NSM_WIREGUARD_TEST_INSIDE";

/// Set where the kernel must have WireGuard, so that a run without it fails.
const KERNEL: &str = "NSM_WIREGUARD_TEST_KERNEL";

/// The tests of one file, by their names, each for the engines of the two nodes.
type Tests = &'static [(&'static str, fn(Kind, Kind))];

/// Lists test functions under their names.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: $crate::Tests = &[$((stringify!($name), $name)),*];
    };
}

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    let mut arguments = Arguments::from_args();
    // Open files and memory are of the process: one test at a time.
    arguments.test_threads = Some(1);
    let has_kernel = has_kernel();
    if !has_kernel {
        eprintln!(
            "this kernel has no WireGuard: its engine is not tested here; run this binary in a VM that has it"
        );
        if std::env::var_os(KERNEL).is_some() {
            return ExitCode::FAILURE;
        }
    }
    logs::capture();
    let files: [(&str, Tests); 5] = [
        // First, while the process has little memory.
        ("many", many::TESTS),
        ("fault", fault::TESTS),
        ("life", life::TESTS),
        ("logs", logs::TESTS),
        ("other", other::TESTS),
    ];
    let kinds = [Kind::Userspace, Kind::Kernel];
    let kinds = kinds
        .into_iter()
        .filter(|kind| *kind == Kind::Userspace || has_kernel);
    let mut trials = Vec::new();
    for kind in kinds.clone() {
        for (file, tests) in files {
            trials.extend(
                tests
                    .iter()
                    .map(|(name, test)| trial(file, name, *test, kind, kind)),
            );
        }
        for other in kinds.clone() {
            let tests = traffic::TESTS.iter();
            trials.extend(tests.map(|(name, test)| trial("traffic", name, *test, kind, other)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(file: &str, name: &str, test: fn(Kind, Kind), one: Kind, other: Kind) -> Trial {
    let engines = if one == other {
        one.to_string()
    } else {
        format!("{one}-{other}")
    };
    Trial::test(format!("{file}::{name}::{engines}"), move || {
        test(one, other);
        Ok(())
    })
}

fn has_kernel() -> bool {
    let line = "ip link add nsm-trial type wireguard && ip link del nsm-trial";
    let tried = Command::new("sh").args(["-c", line]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Becomes a copy of this process in namespaces of its own, with a folder for control sockets of its own.
fn enter() -> ExitCode {
    let is_root = rustix::process::geteuid().is_root();
    let namespaces = if is_root { "-nm" } else { "-Urnm" };
    let probe = Command::new("unshare").args([namespaces, "true"]).status();
    if !probe.as_ref().is_ok_and(std::process::ExitStatus::success) {
        eprintln!(
            "these tests need namespaces of their own, and `unshare {namespaces}` does not work here ({probe:?}): run \
             them as root, or allow user namespaces (sysctl user.max_user_namespaces)"
        );
        return ExitCode::FAILURE;
    }
    let this = std::env::current_exe().expect("a process has a file");
    let script = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";
    let error = Command::new("unshare")
        .args([namespaces, "sh", "-c", script])
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    eprintln!("cannot run unshare: {error}");
    ExitCode::FAILURE
}
