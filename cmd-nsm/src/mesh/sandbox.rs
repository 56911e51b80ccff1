// SPDX-License-Identifier: Apache-2.0
//! Namespaces of our own, so that nothing outside is touched.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail};

/// Set in the environment of a process that runs in namespaces of its own; programs that are to have others do without.
pub const INSIDE: &str = "NSM_SANDBOX_INSIDE";

/// The file that says where names are asked for.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Whether this process is the one that [`enter`] has started.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again in namespaces of its own, with the same arguments, and answers with its exit code; or
/// answers nothing when this process is the one inside.
///
/// As root: a mount and a network namespace. As anybody else: a user namespace as well, in which we are root.
/// The process inside is told to end (SIGTERM) when this one dies, however it dies.
pub fn enter() -> Result<Option<ExitCode>> {
    if is_inside() {
        prepare()?;
        return Ok(None);
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net"]);
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
        .args(["setpriv", "--pdeathsig", "TERM", "--"])
        .arg(std::env::current_exe().context("cannot find our own program file")?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .process_group(0);
    let mut child = unshare
        .spawn()
        .context("cannot start unshare: install the package util-linux")?;
    let status = wait(&mut child)?;
    Ok(Some(ExitCode::from(code(status))))
}

fn code(status: ExitStatus) -> u8 {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
}

/// Waits for the process inside and passes the signals on that would end us.
fn wait(child: &mut std::process::Child) -> Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut ended = signal(SignalKind::child())?;
        let inside = rustix::process::Pid::from_child(child);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            tokio::select! {
                _ = ended.recv() => continue,
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            let _it_may_have_ended = rustix::process::kill_process(inside, rustix::process::Signal::TERM);
        }
    })
}

/// Inside: a `/run` of our own for the names of namespaces, a `resolv.conf` that clients may take over, and a loopback
/// that is up.
fn prepare() -> Result<()> {
    tool("mount", &["--make-rprivate", "/"])?;
    let names = std::fs::read(RESOLV_CONF).ok();
    tool("mount", &["-t", "tmpfs", "nsm", "/run"])?;
    if let Some(names) = names.filter(|_| std::path::Path::new(RESOLV_CONF).exists()) {
        std::fs::write("/run/resolv.conf", names)?;
        tool("mount", &["--bind", "/run/resolv.conf", RESOLV_CONF])?;
    }
    tool("ip", &["link", "set", "lo", "up"])
}

/// Runs a program of the system and expects it to succeed.
pub(super) fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    output(program, arguments).map(drop)
}

/// Runs a program of the system, expects it to succeed, and answers with what it printed.
pub(super) fn output(program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}: is it installed?"))?;
    if !done.status.success() {
        let told = String::from_utf8_lossy(&done.stderr);
        bail!("`{program} {}` failed: {}", arguments.join(" "), told.trim());
    }
    Ok(done.stdout)
}
