// SPDX-License-Identifier: Apache-2.0
//! A mesh that is kept for those who try it: what its commands do, and what they say when they cannot.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{INSIDE, Programs};
use serde_json::Value;
use tempfile::TempDir;

use crate::Bench;

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let test = |name, run: fn() -> Result<()>| {
        bench.trial(name, async move |_| tokio::task::spawn_blocking(run).await?)
    };
    vec![
        test("a_kept_mesh_does_what_it_is_asked_and_leaves_nothing", stays),
        test("what_a_kept_mesh_cannot_do_is_told_with_the_remedy", refuses),
        test(
            "a_mesh_whose_keeper_was_killed_is_gone_and_can_be_started_again",
            killed,
        ),
        test("two_meshes_are_kept_side_by_side", two),
    ]
}

/// A mesh in a folder of its own, which is ended with this value.
struct Kept {
    folder: TempDir,
    program: PathBuf,
}

impl Kept {
    fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new().prefix("nsm-").tempdir()?,
            program: Programs::beside_us()?.file("nsm")?,
        })
    }

    /// One that is running.
    fn up(nodes: &str) -> Result<Self> {
        let kept = Self::new()?;
        kept.does(&["up", "--nodes", nodes])?;
        Ok(kept)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mesh")
    }

    /// Runs a command of the mesh: whether it succeeded, and what it printed.
    fn told(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let done = Command::new(&self.program)
            .arg("mesh")
            .args(arguments)
            .env("NSM_MESH", self.path())
            .env_remove(INSIDE)
            .stdin(Stdio::null())
            .output()?;
        let both = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((done.status.success(), both.concat()))
    }

    fn does(&self, arguments: &[&str]) -> Result<String> {
        match self.told(arguments)? {
            (true, told) => Ok(told),
            (false, told) => bail!("`nsm mesh {}` failed: {told}", arguments.join(" ")),
        }
    }

    /// Checks that a command fails, and says this.
    fn refuses(&self, arguments: &[&str], words: &[&str]) -> Result<()> {
        let (is_done, told) = self.told(arguments)?;
        ensure!(!is_done, "{arguments:?} was done: {told}");
        for word in words {
            ensure!(
                told.contains(word),
                "{arguments:?} does not tell {word:?}: {told}"
            );
        }
        Ok(())
    }

    fn pids(&self) -> Result<Vec<String>> {
        let list: Value = serde_json::from_str(&self.does(&["list", "--json"])?)?;
        let rows = list.as_array().context("no list")?;
        Ok(rows.iter().map(|row| row["pid"].to_string()).collect())
    }

    /// Ends it, and checks that nothing is left.
    fn down(self) -> Result<()> {
        let pids = self.pids()?;
        let told = self.does(&["down"])?;
        ensure!(told.contains("left behind: nothing"), "{told}");
        ensure!(!self.path().exists(), "its folder is still there");
        ensure!(
            !pids.iter().any(|pid| is_running(pid)),
            "one of {pids:?} still runs"
        );
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _it_is_down_unless_a_test_failed = self.told(&["down"]);
    }
}

fn is_running(pid: &str) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid).join("status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

const PING: [&str; 8] = ["exec", "nsc", "--", "ping", "-c2", "-i", "0.01", "10.1.0.0"];

fn wire(kept: &Kept, node: &str) -> Result<()> {
    let endpoint = [
        "endpoint",
        "nse",
        "--node",
        node,
        "--service",
        "icmp",
        "--cidr",
        "10.1.0.0/24",
    ];
    kept.does(&endpoint)?;
    kept.does(&["client", "nsc", "--url", "kernel://icmp/nsm-1"])?;
    let told = kept.does(&PING)?;
    ensure!(told.contains(" 0% packet loss"), "{told}");
    Ok(())
}

fn stays() -> Result<()> {
    let kept = Kept::up("2")?;
    let before = kept.does(&["snapshot"])?;
    wire(&kept, "2")?;
    ensure!(kept.does(&["snapshot"])?.contains("link nsm-1 in nsc"), "no link");
    let list = kept.does(&["list"])?;
    ensure!(
        list.contains("forwarder-2") && list.contains("nse-icmp"),
        "{list}"
    );
    ensure!(kept.does(&["logs", "nsc"])?.contains("INFO ready"), "no log");
    kept.does(&["kill", "nsc"])?;
    kept.refuses(&["kill", "nsc"], &["nsc is not running"])?;
    kept.does(&["start", "nsc"])?;
    kept.does(&PING)?;
    kept.does(&["delete", "nsc", "nse"])?;
    let after = kept.does(&["snapshot"])?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    kept.down()
}

fn refuses() -> Result<()> {
    let kept = Kept::new()?;
    kept.refuses(
        &["list"],
        &["no mesh is running in", "start one by `nsm mesh up`"],
    )?;
    std::fs::create_dir(kept.path())?;
    std::fs::write(kept.path().join("mine"), "")?;
    kept.refuses(&["up"], &["has something in it that is no mesh's", "NSM_MESH"])?;
    std::fs::remove_dir_all(kept.path())?;
    kept.does(&["up", "--nodes", "1"])?;
    kept.refuses(&["up"], &["is running in", "nsm mesh down"])?;
    kept.refuses(
        &["exec", "nobody", "--", "true"],
        &["there is no pod \"nobody\"", "node-1"],
    )?;
    let endpoint = |name: &'static str, node| ["endpoint", name, "--service", "s", "--node", node];
    kept.refuses(&endpoint("nse", "2"), &["there is no node 2: nodes are 1 to 1"])?;
    kept.refuses(
        &endpoint("nsm", "1"),
        &["there is something called \"nsm\" already"],
    )?;
    kept.refuses(&endpoint("a b", "1"), &["letters, digits and dashes"])?;
    let bad = ["endpoint", "nse", "--service", "s", "--cidr", "nonsense"];
    kept.refuses(&bad, &["nse ended", "nonsense"])?;
    kept.refuses(&["start", "nsmgr"], &["nsmgr is running"])?;
    let manifest = kept.folder.path().join("pod.yaml");
    std::fs::write(&manifest, "kind: Pod\nmetadata: {name: x}\nspec: {}\n")?;
    let manifest = manifest.display().to_string();
    kept.refuses(
        &["service", &manifest],
        &["its kind is \"Pod\", not NetworkService"],
    )?;
    kept.down()
}

fn killed() -> Result<()> {
    let kept = Kept::up("1")?;
    wire(&kept, "1")?;
    let pids = kept.pids()?;
    let first = pids.first().context("nothing runs")?;
    let status = std::fs::read_to_string(Path::new("/proc").join(first).join("status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let keeper = parent
        .and_then(|parent| parent.trim().parse().ok())
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(keeper.context("no keeper")?, rustix::process::Signal::KILL)?;
    // The kernel ends its programs, each as soon as it can.
    while pids.iter().any(|pid| is_running(pid)) {
        std::thread::yield_now();
    }
    kept.refuses(&["list"], &["no mesh is running"])?;
    kept.does(&["up", "--nodes", "1"])?;
    wire(&kept, "1")?;
    kept.down()
}

fn two() -> Result<()> {
    let (one, two) = (Kept::up("1")?, Kept::up("1")?);
    wire(&one, "1")?;
    wire(&two, "1")?;
    one.down()?;
    two.does(&PING)?;
    two.down()
}
