// SPDX-License-Identifier: Apache-2.0
//! The data plane on the real kernel, in namespaces that the tests make for themselves.
//!
//! Works as root and as an ordinary user: before it starts any thread, the binary runs itself again in namespaces of
//! its own. A kernel that does not let it is a failure, never a reason to skip. What the data plane did is looked at
//! with `ip`, `ping` and `/proc`, not with its own code.
#![forbid(unsafe_code)]

mod change;
mod fault;
mod local;
mod ping;
mod policy;
mod recovery;
mod role;
mod transit;
mod underlay;
mod vxlan;
mod world;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Set in the copy of the process that is inside.
const INSIDE: &str = "NSM_KERNEL_TEST_INSIDE";

/// Set in a process that a test starts for what only a process of its own can show; names what that is.
const ROLE: &str = "NSM_KERNEL_TEST_ROLE";

/// The tests of one file, by their names.
type Tests = &'static [(&'static str, fn())];

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
    if let Some(role) = std::env::var_os(ROLE) {
        return role::play(&role.to_string_lossy());
    }
    let arguments = Arguments::from_args();
    let files: [(&str, Tests); 9] = [
        ("change", change::TESTS),
        ("fault", fault::TESTS),
        ("local", local::TESTS),
        ("ping", ping::TESTS),
        ("policy", policy::TESTS),
        ("recovery", recovery::TESTS),
        ("transit", transit::TESTS),
        ("underlay", underlay::TESTS),
        ("vxlan", vxlan::TESTS),
    ];
    let trials = files.into_iter().flat_map(|(file, tests)| {
        tests.iter().map(move |(name, test)| {
            Trial::test(format!("{file}::{name}"), || {
                test();
                Ok(())
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Becomes a copy of this process in namespaces of its own.
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
    let error = Command::new("unshare")
        .arg(namespaces)
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    eprintln!("cannot run unshare: {error}");
    ExitCode::FAILURE
}
