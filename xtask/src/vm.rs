// SPDX-License-Identifier: Apache-2.0
//! Runs tests on Debian's kernel in a virtual machine, for what the kernel of this machine may lack.
//!
//! The machine is QEMU's with software emulation, which works wherever QEMU does: also inside another virtual machine
//! or a container. Its files are ours, read-only; it can write to one folder.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::built;
use crate::profile_folder;
use crate::report::{Tally, run, run_tests_into};
use crate::tools::{self, Kernel};

/// What runs inside.
const SCRIPT: &str = include_str!("vm.sh");

/// What its tests start.
const PROGRAMS: [&str; 6] = ["nsmgr", "forwarder", "registry-memory", "nse-icmp", "nsc", "nsm"];

/// The tests that run inside.
const TESTS: [&str; 2] = ["wireguard", "netns"];

/// How long all of it may take, in seconds: more than the limits of the steps inside (`vm.sh`) would be too long.
const LIMIT: &str = "900";

/// Runs the tests inside, and counts them. The tests must be built, and the programs for release.
///
/// What the machine printed, its kernel's log and the logs of programs in tests that failed are left in a folder, which
/// is named when something fails.
pub(crate) fn tests() -> Result<Tally> {
    let kernel = tools::kernel()?;
    let virtme = tools::virtme()?;
    let shared = profile_folder("debug")?.with_file_name("vm");
    if shared.exists() {
        fs::remove_dir_all(&shared).with_context(|| format!("cannot remove {}", shared.display()))?;
    }
    fill(&shared)?;
    println!("starting Linux {}", kernel.version);
    let log = shared.join("log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let tally = run_tests_into(&mut machine(&virtme, &kernel, &shared)?, output).map(|mut tally| {
        if tally.failed == 0
            && let Err(error) = verdict(&shared)
        {
            println!("{error:#}");
            tally.failed = 1;
        }
        tally
    });
    if !tally.as_ref().is_ok_and(|tally| tally.failed == 0) {
        println!("what the virtual machine left is in {}", shared.display());
    }
    tally
}

/// Puts into the folder what the machine needs: programs without what only debuggers need, and the script.
///
/// Programs are those built for release: an emulated processor is slow, and they have no more patience than on others.
fn fill(shared: &Path) -> Result<()> {
    let built = profile_folder("release")?;
    let programs = shared.join("programs");
    fs::create_dir_all(&programs).with_context(|| format!("cannot make {}", programs.display()))?;
    let tests = TESTS.iter().zip(built::tests(TESTS.map(|name| ("", name)))?);
    let tests = tests.map(|(name, file)| (*name, file));
    let all = PROGRAMS.iter().map(|name| (*name, built.join(name))).chain(tests);
    for (name, file) in all {
        run(Command::new("strip").arg("-o").arg(programs.join(name)).arg(file))?;
    }
    fs::write(shared.join("vm.sh"), SCRIPT).context("cannot write the script")
}

/// The command that starts the machine, ends when it does, and does not outlive us.
fn machine(virtme: &Path, kernel: &Kernel, shared: &Path) -> Result<Command> {
    let mut machine = Command::new("setpriv");
    machine
        .args(["--pdeathsig", "TERM", "--"])
        .args(["timeout", "--kill-after=10", LIMIT])
        // QEMU opens both again by their names, and would truncate a file.
        .args(["sh", "-c", "exec \"$0\" \"$@\" 2>&1"])
        .arg(virtme.join("vng"))
        .arg("--run")
        .arg(&kernel.file)
        // Hardware virtualization is not everywhere, and inside another machine it may hang.
        .args(["--disable-kvm", "--user=root", "--cpus=2", "--memory=2G"])
        .arg(format!("--rwdir={}", shared.display()))
        .args(["--", "bash"])
        .args([&shared.join("vm.sh"), shared])
        .env("PATH", tools::path_with(virtme)?)
        .stdin(Stdio::null());
    Ok(machine)
}

/// What the script says at its end: nothing when the machine did not get so far.
fn verdict(shared: &Path) -> Result<()> {
    let status = fs::read_to_string(shared.join("status"))
        .context("the virtual machine ended before the tests did")?;
    match status.trim() {
        "0" => Ok(()),
        failed => bail!("{failed} steps in the virtual machine failed"),
    }
}
