// SPDX-License-Identifier: Apache-2.0
//! Runs tests and benchmarks on Debian's kernel in a virtual machine, for what the kernel of this machine may lack.
//!
//! The machine is QEMU's with software emulation, which works wherever QEMU does: also inside another virtual machine
//! or a container. Its files are ours, read-only; it can write to one folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::profile_folder;
use crate::report::{Tally, run, run_tests_into};
use crate::{built, images, tools};

/// What runs inside, and the steps that it takes.
const SCRIPT: &str = include_str!("vm.sh");
const TESTS: &str = include_str!("vm/tests.sh");
const BENCH: &str = include_str!("vm/bench.sh");

/// What its steps start.
const PROGRAMS: [&str; 7] = [
    "nsmgr",
    "forwarder",
    "registry-memory",
    "nse-icmp",
    "nse-passthrough",
    "nsc",
    "nsm",
];

/// The tests that run inside.
const SUITES: [&str; 2] = ["wireguard", "netns"];

/// How long all of it may take, in seconds: more than the limits of the steps inside would be too long.
const LIMIT_OF_TESTS: u32 = 2_000;
const LIMIT_OF_BENCH: u32 = 1_800;

/// Runs the tests inside, with the programs that images have, and counts them.
///
/// What the machine printed, its kernel's log and the logs of programs in tests that failed are left in a folder, which
/// is named when something fails.
pub(crate) fn tests() -> Result<Tally> {
    let built = images::programs()?;
    let suites = built::tests(SUITES.map(|name| ("", name)))?;
    let suites = SUITES.iter().zip(suites).map(|(name, file)| (*name, file));
    let programs = PROGRAMS.iter().map(|name| (*name, built.join(name)));
    let shared = share(programs.chain(suites), TESTS)?;
    let log = shared.join("log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let tally = run_tests_into(&mut machine(&shared, LIMIT_OF_TESTS)?, output).map(|mut tally| {
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

/// Runs a benchmark inside, with the programs of a folder. Returns the file with its figures.
pub(crate) fn bench(programs: &Path, options: &[String]) -> Result<PathBuf> {
    let measured = PROGRAMS.iter().chain(&["nsm-bench"]);
    let shared = share(measured.map(|name| (*name, programs.join(name))), BENCH)?;
    run(machine(&shared, LIMIT_OF_BENCH)?.args(options))?;
    verdict(&shared)?;
    Ok(shared.join("figures.json"))
}

/// A folder with what the machine needs: programs without what only debuggers need, and what is run there.
///
/// Programs are those that images have: an emulated processor is slow, and they have no more patience than on others.
fn share(programs: impl Iterator<Item = (&'static str, PathBuf)>, steps: &str) -> Result<PathBuf> {
    let shared = profile_folder("debug")?.with_file_name("vm");
    if shared.exists() {
        fs::remove_dir_all(&shared).with_context(|| format!("cannot remove {}", shared.display()))?;
    }
    let folder = shared.join("programs");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, file) in programs {
        run(Command::new("strip").arg("-o").arg(folder.join(name)).arg(file))?;
    }
    for (name, script) in [("vm.sh", SCRIPT), ("steps.sh", steps)] {
        fs::write(shared.join(name), script).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(shared)
}

/// The command that starts the machine, ends when it does, and does not outlive us.
fn machine(shared: &Path, limit: u32) -> Result<Command> {
    let kernel = tools::kernel()?;
    let virtme = tools::virtme()?;
    println!("starting Linux {}", kernel.version);
    let mut machine = Command::new("setpriv");
    machine
        .args(["--pdeathsig", "TERM", "--"])
        .args(["timeout", "--kill-after=10", &limit.to_string()])
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
        .env("PATH", tools::path_with(&virtme)?)
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
