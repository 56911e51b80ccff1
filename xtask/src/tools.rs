// SPDX-License-Identifier: Apache-2.0
//! The programs that tests and lints need, and how they come.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::go;
use crate::report::run;

/// The cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// The system's own Python, to which the packages for Python belong.
const PYTHON: &str = "/usr/bin/python3";

/// Where the system keeps what is for root.
const FOR_ROOT: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The virtme-ng that `vm.rs` is written for.
const VIRTME: &str = "1.42";

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

/// Builds the programs on the Go SDK: no program alone, but one that is new enough; it brings itself up to what their
/// modules ask for.
pub(crate) const GO: Tool = Tool {
    program: "go (1.21 or newer)",
    package: "golang-go",
};

/// Sends as much as a wire carries.
pub(crate) const IPERF3: Tool = Tool {
    program: "iperf3",
    package: "iperf3",
};

/// Scrapes the mesh, and checks what it tells.
pub(crate) const PROMETHEUS: Tool = Tool {
    program: "prometheus",
    package: "prometheus",
};

/// Serves names behind an endpoint.
pub(crate) const DNSMASQ: Tool = Tool {
    program: "dnsmasq",
    package: "dnsmasq-base",
};

/// Asks for names.
pub(crate) const DIG: Tool = Tool {
    program: "dig",
    package: "bind9-dnsutils",
};

/// Boots a kernel without hardware.
pub(crate) const QEMU: Tool = Tool {
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
};

/// Debian's kernel with its modules: no program, but the file that [`kernel`] finds.
pub(crate) const KERNEL: Tool = Tool {
    program: "/boot/vmlinuz",
    package: "linux-image-amd64",
};

/// Loads the modules of that kernel.
pub(crate) const MODPROBE: Tool = Tool {
    program: "modprobe",
    package: "kmod",
};

/// Installs programs that are written in Python: no program, but a part of Python that Debian keeps apart.
pub(crate) const VENV: Tool = Tool {
    program: "python3 -m venv",
    package: "python3-venv",
};

/// Makes program files small.
pub(crate) const STRIP: Tool = Tool {
    program: "strip",
    package: "binutils",
};

/// Compiles the parts in C of static programs.
pub(crate) const MUSL: Tool = Tool {
    program: "musl-gcc",
    package: "musl-tools",
};

/// Runs containers on the nodes of a test cluster.
pub(crate) const CONTAINERD: Tool = Tool {
    program: "containerd",
    package: "containerd",
};

/// Starts each container.
pub(crate) const RUNC: Tool = Tool {
    program: "runc",
    package: "runc",
};

/// Gives pods their usual network: no program on the path, but those in a folder of their own.
pub(crate) const CNI: Tool = Tool {
    program: "/usr/lib/cni/bridge",
    package: "containernetworking-plugins",
};

/// Leads from services to pods.
pub(crate) const NFT: Tool = Tool {
    program: "nft",
    package: "nftables",
};

/// What pods of examples run beside a client or an endpoint: one static program.
pub(crate) const BUSYBOX: Tool = Tool {
    program: "busybox",
    package: "busybox-static",
};

/// Ends a program that takes too long.
pub(crate) const TIMEOUT: Tool = Tool {
    program: "timeout",
    package: "coreutils",
};

impl Tool {
    fn is_there(&self) -> bool {
        match *self {
            KERNEL => kernel().is_ok(),
            GO => go::is_there(),
            CNI => ["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"]
                .iter()
                .any(|file| Path::new(file).is_file()),
            VENV => answers(Command::new(PYTHON).args(["-c", "import ensurepip, venv"])),
            Self { program, .. } => find(program).is_some(),
        }
    }
}

/// Something is missing and could not be installed from here; displays as what to do.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl Missing {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

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
    let missing =
        |tools: &[Tool]| -> Vec<Tool> { tools.iter().copied().filter(|tool| !tool.is_there()).collect() };
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
    if missing(&wanted).contains(&GO) {
        // Distributions may have an older one, which can fetch another.
        go::fetch()?;
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

/// Makes sure that programs can be built for `target`.
///
/// Errors: [`Missing`].
pub(crate) fn need_target(target: &str) -> Result<()> {
    let told = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output()?;
    if Path::new(String::from_utf8_lossy(&told.stdout).trim()).is_dir() {
        return Ok(());
    }
    let install = run(Command::new("rustup").args(["target", "add", target]));
    install.map_err(|error| {
        Missing(format!(
            "programs cannot be built for {target} ({error:#}); get it by\n    rustup target add {target}"
        ))
        .into()
    })
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

/// A kernel that is installed with its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) version: String,
    /// The file to boot.
    pub(crate) file: PathBuf,
}

/// The newest kernel that is installed here, whichever runs.
///
/// Errors: [`Missing`] when there is none that we may read.
pub(crate) fn kernel() -> Result<Kernel> {
    let versions = names(Path::new("/lib/modules"));
    let kernels = versions.map(|version| Kernel {
        file: Path::new("/boot").join(format!("vmlinuz-{version}")),
        version,
    });
    kernels
        .filter(|kernel| File::open(&kernel.file).is_ok())
        .max_by_key(|kernel| numbers(&kernel.version))
        .ok_or_else(|| {
            Missing("there is no kernel in /boot with modules that we may read".to_string()).into()
        })
}

/// The names in a folder, or none when it cannot be read.
fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The numbers in a version, by which versions are ordered.
pub(crate) fn numbers(version: &str) -> Vec<u64> {
    let numbers = version.split(|letter: char| !letter.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The folder with the program `vng`, installed once for all work trees of this user.
///
/// Errors: [`Missing`] when it cannot be installed.
pub(crate) fn virtme() -> Result<PathBuf> {
    let folder = cache()?.join(format!("virtme-ng-{VIRTME}"));
    let programs = folder.join("bin");
    if answers(Command::new(programs.join("vng")).arg("--version")) {
        return Ok(programs);
    }
    println!("installing virtme-ng {VIRTME} into {}, once", folder.display());
    let install = || {
        run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(Command::new(programs.join("pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("virtme-ng=={VIRTME}")))
    };
    install().map_err(|error| Missing(format!("virtme-ng could not be installed: {error:#}")))?;
    Ok(programs)
}

/// Our path with this folder before, and with what the system keeps for root.
pub(crate) fn path_with(folder: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf())
        .chain(std::env::split_paths(&path))
        .chain(FOR_ROOT.map(PathBuf::from));
    Ok(std::env::join_paths(folders)?)
}

/// Where tools are kept that we build ourselves: outside of every work tree.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => std::env::home_dir()
            .context("neither XDG_CACHE_HOME nor HOME is set")?
            .join(".cache"),
    };
    Ok(base.join("nsm/tools"))
}

/// Where the program is: on the path, or where the system keeps what is for root.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FOR_ROOT.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whether the command runs and succeeds, whatever it prints.
pub(crate) fn answers(command: &mut Command) -> bool {
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
    fn versions_are_ordered_by_their_numbers() {
        let ordered = ["5.10.0-30-amd64", "6.1.0-9-amd64", "6.1.0-56-amd64", "6.12.1"];
        assert!(ordered.map(numbers).is_sorted());
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
