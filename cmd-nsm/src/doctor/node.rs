// SPDX-License-Identifier: Apache-2.0
//! What a node needs: the kernel's features, files, limits and rights.

use std::os::unix::fs::FileTypeExt;

use super::{Files, Finding, State};

/// Parts of the kernel: the module, the option that builds it, and who needs it.
const MODULES: [(&str, &str, &str); 8] = [
    ("veth", "CONFIG_VETH", "wires on a node"),
    (
        "vxlan",
        "CONFIG_VXLAN",
        "wires between nodes with payload ETHERNET",
    ),
    (
        "wireguard",
        "CONFIG_WIREGUARD",
        "wires between nodes with payload IP, the kernel's engine",
    ),
    (
        "tun",
        "CONFIG_TUN",
        "wires between nodes with payload IP, the engine in the program",
    ),
    (
        "nf_tables",
        "CONFIG_NF_TABLES",
        "policies of pods with address translation",
    ),
    ("sch_ingress", "CONFIG_NET_SCH_INGRESS", TRANSIT),
    ("cls_u32", "CONFIG_NET_CLS_U32", TRANSIT),
    ("act_mirred", "CONFIG_NET_ACT_MIRRED", TRANSIT),
];

/// Who needs the kernel to hand packets on.
const TRANSIT: &str = "wires from one node by this one to a third";

/// Rights: the number of the capability, its name, and who needs it.
const RIGHTS: [(u32, &str, &str); 3] = [
    (21, "CAP_SYS_ADMIN", "the forwarder, to enter namespaces of pods"),
    (12, "CAP_NET_ADMIN", "the forwarder, to make interfaces"),
    (13, "CAP_NET_RAW", "liveness checks of clients"),
];

/// How many files a program of a node may have to open.
const FILES: u64 = 65_536;

/// Everything that a node needs. Sockets are those of the manager and of the Workload API.
pub fn node(files: &Files, sockets: &[(&'static str, String)]) -> Vec<Finding> {
    let mut findings: Vec<_> = MODULES
        .iter()
        .map(|(module, option, needed_by)| module_finding(files, module, option, needed_by))
        .collect();
    findings.push(device(files));
    findings.extend(sysctls(files));
    findings.extend(RIGHTS.iter().map(|right| capability(files, right)));
    findings.push(open_files(files));
    findings.push(cgroup(files));
    findings.extend(sockets.iter().map(|(name, path)| socket(files, name, path)));
    findings
}

fn module_finding(files: &Files, module: &str, option: &str, needed_by: &'static str) -> Finding {
    let name = format!("module {module}");
    let release = files.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let folder = format!("/lib/modules/{}", release.trim());
    let file = format!("/{module}.ko");
    let lists = |list: &str| files.read(&format!("{folder}/{list}"));
    if files.is_there(&format!("/sys/module/{module}")) {
        return Finding::new(name, needed_by, State::Good, "it is loaded", "");
    }
    let (builtin, loadable) = (lists("modules.builtin"), lists("modules.dep"));
    let has = |list: &Option<String>| list.as_ref().is_some_and(|list| list.contains(&file));
    let remedy = format!("modprobe {module}, or take a kernel with {option}");
    if has(&builtin) {
        return Finding::new(name, needed_by, State::Good, "it is built in", "");
    }
    if has(&loadable) {
        return Finding::new(name, needed_by, State::Good, "it is loaded when it is needed", "");
    }
    match builtin.or(loadable) {
        Some(_) => Finding::new(
            name,
            needed_by,
            State::Missing,
            "the kernel has no such module",
            remedy,
        ),
        None => {
            let found = format!("not loaded, and {folder} is not there to tell more");
            Finding::new(name, needed_by, State::Unknown, found, remedy)
        }
    }
}

fn device(files: &Files) -> Finding {
    let (name, needed_by) = ("/dev/net/tun", "WireGuard tunnels by the engine in the program");
    let is_device = std::fs::metadata(files.path(name)).is_ok_and(|found| found.file_type().is_char_device());
    match is_device {
        true => Finding::new(name, needed_by, State::Good, "it is there", ""),
        false => {
            let remedy = "modprobe tun, and mount /dev/net/tun into the forwarder's container";
            Finding::new(name, needed_by, State::Poor, "it is not there", remedy)
        }
    }
}

fn sysctls(files: &Files) -> Vec<Finding> {
    let number = |path: &str| {
        let text = files.read(&format!("/proc/sys/{path}"))?;
        text.trim().parse::<u64>().ok()
    };
    let at_least = |path: &str, least: u64, needed_by| {
        let name = format!("sysctl {}", path.replace('/', "."));
        let remedy = format!("sysctl -w {}={least}", path.replace('/', "."));
        match number(path) {
            None => Finding::new(name, needed_by, State::Unknown, "it cannot be read", remedy),
            Some(value) if value >= least => {
                Finding::new(name, needed_by, State::Good, format!("it is {value}"), "")
            }
            Some(value) => Finding::new(name, needed_by, State::Poor, format!("it is {value}"), remedy),
        }
    };
    let name = "sysctl net.ipv6.conf.all.disable_ipv6";
    let ipv6 = match number("net/ipv6/conf/all/disable_ipv6") {
        Some(0) => Finding::new(name, "wires with IPv6", State::Good, "it is 0", ""),
        found => {
            let found = found.map_or("there is no IPv6".to_string(), |value| format!("it is {value}"));
            let remedy = "sysctl -w net.ipv6.conf.all.disable_ipv6=0, or a kernel with CONFIG_IPV6";
            Finding::new(name, "wires with IPv6", State::Poor, found, remedy)
        }
    };
    vec![
        ipv6,
        at_least(
            "fs/inotify/max_user_instances",
            128,
            "programs that watch their settings and identities",
        ),
        at_least("user/max_net_namespaces", 1024, "pods"),
        at_least("net/ipv4/neigh/default/gc_thresh3", 1024, "nodes with many wires"),
    ]
}

fn capability(files: &Files, &(number, name, needed_by): &(u32, &str, &'static str)) -> Finding {
    let status = files.read("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(held) = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok()) else {
        return Finding::new(
            name,
            needed_by,
            State::Unknown,
            "/proc does not tell",
            "mount /proc",
        );
    };
    let remedy = format!("run as root, or add {name} to the container's securityContext");
    match held >> number & 1 {
        1 => Finding::new(name, needed_by, State::Good, "we have it", ""),
        _ => Finding::new(name, needed_by, State::Missing, "we do not have it", remedy),
    }
}

fn open_files(files: &Files) -> Finding {
    let (name, needed_by) = ("limit of open files", "managers and forwarders with many clients");
    let limits = files.read("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1));
    let remedy =
        format!("raise the hard limit to {FILES} (ulimit -Hn, LimitNOFILE of the container runtime)");
    match hard.map(|hard| (hard, hard.parse::<u64>().unwrap_or(u64::MAX))) {
        None => Finding::new(name, needed_by, State::Unknown, "/proc does not tell", remedy),
        Some((text, hard)) if hard >= FILES => Finding::new(
            name,
            needed_by,
            State::Good,
            format!("the hard limit is {text}"),
            "",
        ),
        Some((text, _)) => Finding::new(
            name,
            needed_by,
            State::Poor,
            format!("the hard limit is {text}"),
            remedy,
        ),
    }
}

fn cgroup(files: &Files) -> Finding {
    let (name, needed_by) = ("cgroup v2", "limits of the programs' memory");
    match files.is_there("/sys/fs/cgroup/cgroup.controllers") {
        true => Finding::new(
            name,
            needed_by,
            State::Good,
            "the unified hierarchy is mounted",
            "",
        ),
        false => {
            let remedy =
                "boot with systemd.unified_cgroup_hierarchy=1; on cgroup v1 limits of swap do not hold";
            Finding::new(
                name,
                needed_by,
                State::Poor,
                "it is not mounted at /sys/fs/cgroup",
                remedy,
            )
        }
    }
}

/// Whether somebody listens on a socket.
fn socket(files: &Files, name: &'static str, path: &str) -> Finding {
    let full = files.path(path);
    let needed_by = "every program of the mesh";
    let found = |what: &str| format!("{path} {what}");
    let remedy = match name {
        "manager's socket" => {
            "start the nsmgr of the node, and mount its folder into pods of clients and endpoints"
        }
        _ => {
            "start the agent (SPIRE, or the issuer) of the node, or set NSM_IDENTITY_DIR to a folder with PEM files"
        }
    };
    match std::os::unix::net::UnixStream::connect(&full) {
        Ok(_) => Finding::new(name, needed_by, State::Good, found("answers"), ""),
        Err(error) if full.exists() => Finding::new(
            name,
            needed_by,
            State::Missing,
            found(&format!("does not answer: {error}")),
            remedy,
        ),
        Err(_) => Finding::new(name, needed_by, State::Missing, found("is not there"), remedy),
    }
}
