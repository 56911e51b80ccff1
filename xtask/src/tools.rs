// SPDX-License-Identifier: Apache-2.0
//! The programs that tests and lints need, and how they come.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::report::run;

/// The cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// A program, and the Debian package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Makes network namespaces, and looks at them from outside.
pub(crate) const IP: Tool = Tool {
    program: "ip",
    package: "iproute2",
};

/// Sends the first packet over a wire.
pub(crate) const PING: Tool = Tool {
    program: "ping",
    package: "iputils-ping",
};

/// Runs a test in namespaces of its own.
pub(crate) const UNSHARE: Tool = Tool {
    program: "unshare",
    package: "util-linux",
};

/// Runs a program in the namespace of a pod.
pub(crate) const NSENTER: Tool = Tool {
    program: "nsenter",
    package: "util-linux",
};

/// Ends a program when the one that started it dies.
pub(crate) const SETPRIV: Tool = Tool {
    program: "setpriv",
    package: "util-linux",
};

/// Looks at the sockets of a namespace.
pub(crate) const SS: Tool = Tool {
    program: "ss",
    package: "iproute2",
};

/// The other end of WireGuard tunnels, by other hands.
pub(crate) const WIREGUARD_GO: Tool = Tool {
    program: "wireguard-go",
    package: "wireguard-go",
};

/// Sets up the other end.
pub(crate) const WG: Tool = Tool {
    program: "wg",
    package: "wireguard-tools",
};

/// Something is missing and could not be installed from here; displays as what to do.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Makes sure that the programs are there: root on Debian gets their packages installed.
///
/// Errors: [`Missing`] with the command that brings them.
pub(crate) fn need(tools: &[Tool]) -> Result<()> {
    let missing = |tools: &[Tool]| -> Vec<Tool> {
        let is_missing = |tool: &Tool| find(tool.program).is_none();
        tools.iter().copied().filter(is_missing).collect()
    };
    let wanted = missing(tools);
    if wanted.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = wanted.iter().map(|tool| tool.package).collect();
    packages.dedup();
    if Path::new("/etc/debian_version").exists() && is_root() {
        println!("installing {}", packages.join(" "));
        run(apt_get().arg("update"))?;
        run(apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(&packages))?;
    }
    match missing(&wanted).as_slice() {
        [] => Ok(()),
        still => Err(Missing(advice(still)).into()),
    }
}

fn advice(tools: &[Tool]) -> String {
    let list = |part: fn(&Tool) -> &str| {
        let mut names: Vec<_> = tools.iter().map(part).collect();
        names.dedup();
        names.join(" ")
    };
    let (programs, packages) = (list(|tool| tool.program), list(|tool| tool.package));
    format!(
        "not found: {programs}; install them, on Debian and Ubuntu by\n    sudo apt-get install -y {packages}"
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .arg("-q")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Makes sure that rustfmt and clippy are there; `rust-toolchain.toml` asks rustup for them.
///
/// Errors: [`Missing`].
pub(crate) fn need_components() -> Result<()> {
    for component in ["fmt", "clippy"] {
        if !answers(Command::new("cargo").args([component, "--version"])) {
            let text =
                format!("cargo {component} is not there; get it by\n    rustup component add rustfmt clippy");
            return Err(Missing(text).into());
        }
    }
    Ok(())
}

/// The program `cargo-deny`, built once for all work trees of this user.
///
/// Errors: [`Missing`] when it cannot be built.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let folder = cache()?.join(format!("cargo-deny-{CARGO_DENY}"));
    let program = folder.join("bin/cargo-deny");
    if answers(Command::new(&program).arg("--version")) {
        return Ok(program);
    }
    println!("building cargo-deny {CARGO_DENY} into {}, once", folder.display());
    // Unoptimized: that is less than half of the work to build, and a check takes 3 s in place of 1.
    let mut install = Command::new("cargo");
    install
        .args([
            "install",
            "--quiet",
            "--locked",
            "--debug",
            "--force",
            "--version",
            CARGO_DENY,
            "--root",
        ])
        .arg(&folder)
        .arg("cargo-deny")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env_remove("CARGO_TARGET_DIR");
    run(&mut install).map_err(|error| Missing(format!("cargo-deny could not be built: {error:#}")))?;
    Ok(program)
}

/// Where tools are kept that we build ourselves: outside of every work tree.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => std::env::home_dir()
            .context("neither XDG_CACHE_HOME nor HOME is set")?
            .join(".cache"),
    };
    Ok(base.join("nsm/tools"))
}

/// Where the program is: on the path, or where the system keeps what is for root.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whether the command runs and succeeds, whatever it prints.
fn answers(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name() {
        assert!(find("sh").is_some());
        assert!(find("no-program-has-this-name").is_none());
    }

    #[test]
    fn the_advice_names_programs_and_packages() {
        let advice = advice(&[IP, PING, UNSHARE, NSENTER]);
        assert!(advice.contains("not found: ip ping unshare nsenter;"), "{advice}");
        assert!(
            advice.ends_with("apt-get install -y iproute2 iputils-ping util-linux"),
            "{advice}"
        );
    }
}
