// SPDX-License-Identifier: Apache-2.0

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;

/// A node on which everything is.
fn whole() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("it is ours");
        fs::write(path, text).expect("it is ours");
    };
    write("proc/sys/kernel/osrelease", "6.1.0\n");
    write(
        "lib/modules/6.1.0/modules.builtin",
        "kernel/net/tun.ko\nkernel/net/nf_tables.ko\nnet/sched/sch_ingress.ko\nnet/sched/cls_u32.ko\nnet/sched/act_mirred.ko\n",
    );
    write(
        "lib/modules/6.1.0/modules.dep",
        "kernel/drivers/net/vxlan.ko.xz: kernel/x.ko\nkernel/wireguard.ko:\n",
    );
    write("sys/module/veth/uevent", "");
    write("proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n");
    write("proc/sys/fs/inotify/max_user_instances", "128\n");
    write("proc/sys/user/max_net_namespaces", "10000\n");
    write("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n");
    write("proc/self/status", "Name:\tnsm\nCapEff:\t000001ffffffffff\n");
    write(
        "proc/self/limits",
        "Max open files            1024                 1048576              files\n",
    );
    write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    folder
}

fn findings(root: &tempfile::TempDir) -> Vec<Finding> {
    let sockets = [("manager's socket", "/run/nsm.sock".to_string())];
    node(&Files::below(root.path()), &sockets)
}

fn named<'f>(findings: &'f [Finding], name: &str) -> &'f Finding {
    let found = findings.iter().find(|finding| finding.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {findings:?}"))
}

#[test]
fn a_whole_node_has_nothing_but_its_device_to_ask_for() {
    let root = whole();
    fs::create_dir_all(root.path().join("run")).expect("it is ours");
    let _listener = UnixListener::bind(root.path().join("run/nsm.sock")).expect("it is ours");
    let poor: Vec<_> = findings(&root)
        .into_iter()
        .filter(|finding| finding.state != State::Good)
        .map(|finding| finding.name)
        .collect();
    // Only root makes devices.
    assert_eq!(poor, ["/dev/net/tun"]);
}

#[test]
fn each_thing_that_is_missing_has_its_own_finding_with_a_remedy() {
    let cases: [(&str, &str, &str, State, &str); 8] = [
        (
            "lib/modules/6.1.0/modules.dep",
            "",
            "module vxlan",
            State::Missing,
            "modprobe vxlan",
        ),
        (
            "lib/modules/6.1.0/modules.dep",
            "",
            "module wireguard",
            State::Missing,
            "CONFIG_WIREGUARD",
        ),
        (
            "proc/sys/net/ipv6/conf/all/disable_ipv6",
            "1",
            "sysctl net.ipv6.conf.all.disable_ipv6",
            State::Poor,
            "disable_ipv6=0",
        ),
        (
            "proc/sys/fs/inotify/max_user_instances",
            "8",
            "sysctl fs.inotify.max_user_instances",
            State::Poor,
            "sysctl -w fs.inotify.max_user_instances=128",
        ),
        (
            "proc/self/status",
            "CapEff:\t0\n",
            "CAP_SYS_ADMIN",
            State::Missing,
            "securityContext",
        ),
        (
            "proc/self/status",
            "CapEff:\t200000\n",
            "CAP_NET_ADMIN",
            State::Missing,
            "securityContext",
        ),
        (
            "proc/self/limits",
            "Max open files            1024                 4096                 files\n",
            "limit of open files",
            State::Poor,
            "65536",
        ),
        ("proc/self/status", "", "CAP_NET_RAW", State::Unknown, "/proc"),
    ];
    for (file, text, name, state, remedy) in cases {
        let root = whole();
        fs::write(root.path().join(file), text).expect("it is ours");
        let findings = findings(&root);
        let finding = named(&findings, name);
        assert_eq!(finding.state, state, "{finding:?}");
        assert!(finding.remedy.contains(remedy), "{finding:?}");
    }
    let root = whole();
    fs::remove_dir_all(root.path().join("sys")).expect("it is ours");
    let findings = findings(&root);
    assert_eq!(named(&findings, "cgroup v2").state, State::Poor);
    assert_eq!(named(&findings, "module veth").state, State::Missing);
    let socket = named(&findings, "manager's socket");
    assert!(
        socket.found.contains("is not there") && socket.remedy.contains("nsmgr"),
        "{socket:?}"
    );
}

#[test]
fn without_lists_of_modules_nothing_is_claimed() {
    let root = whole();
    fs::remove_dir_all(root.path().join("lib")).expect("it is ours");
    let findings = findings(&root);
    assert_eq!(named(&findings, "module vxlan").state, State::Unknown);
    assert_eq!(named(&findings, "module veth").state, State::Good);
}

/// A `kubectl` that answers as one of a cluster does.
fn kubectl(script: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kubectl");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("it is ours");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let file = file.to_string_lossy().into_owned();
    (folder, file)
}

/// One that knows these workloads and one of the two definitions.
fn kubectl_of(workloads: &serde_json::Value, may_exec: bool) -> (tempfile::TempDir, String) {
    let may_exec = match may_exec {
        true => "echo yes",
        false => "echo no; exit 1",
    };
    kubectl(&format!(
        r#"case "$*" in
        version*) echo '{{"serverVersion":{{"gitVersion":"v1.34.4"}}}}';;
        *networkservices.*) echo '{{}}';;
        *crd*) echo 'Error from server (NotFound): no such thing' >&2; exit 1;;
        auth*) {may_exec};;
        *) echo '{workloads}';;
        esac"#
    ))
}

fn workload(kind: &str, name: &str, ready: u64, wanted: u64) -> serde_json::Value {
    let (status, spec) = match kind {
        "DaemonSet" => (
            serde_json::json!({"numberReady": ready, "desiredNumberScheduled": wanted}),
            serde_json::json!({"template": {"spec": {"containers": [{"name": "agent"}]}}}),
        ),
        _ => (
            serde_json::json!({"readyReplicas": ready}),
            serde_json::json!({"replicas": wanted}),
        ),
    };
    let metadata = serde_json::json!({"name": name, "namespace": "nsm-system"});
    serde_json::json!({"kind": kind, "metadata": metadata, "spec": spec, "status": status})
}

#[test]
fn each_workload_that_is_absent_or_not_ready_is_named() {
    let mut foreign = workload("Deployment", "registry", 1, 1);
    foreign["metadata"]["namespace"] = "images".into();
    let workloads = serde_json::json!({"items": [
        foreign,
        workload("Deployment", "registry-k8s", 0, 1),
        workload("DaemonSet", "nsmgr", 1, 2),
        workload("DaemonSet", "forwarder-vpp", 2, 2),
    ]});
    let (_folder, program) = kubectl_of(&workloads, false);
    let findings = cluster(&program, &[]);
    for (name, state, found) in [
        ("API server", State::Good, "v1.34.4"),
        (
            "definition networkservices.networkservicemesh.io",
            State::Good,
            "it is there",
        ),
        (
            "definition networkserviceendpoints.networkservicemesh.io",
            State::Missing,
            "NotFound",
        ),
        ("registry", State::Missing, "0 of 1 replicas are ready"),
        ("nsmgr", State::Poor, "1 of 2 nodes are ready"),
        ("forwarder", State::Good, "2 of 2 nodes are ready"),
        ("admission-webhook", State::Poor, "it is not there"),
        ("agents", State::Poor, "no"),
    ] {
        let finding = named(&findings, name);
        assert_eq!(finding.state, state, "{finding:?}");
        assert!(finding.found.contains(found), "{finding:?}");
        assert_eq!(finding.remedy.is_empty(), state == State::Good, "{finding:?}");
    }
}

#[test]
fn a_registry_in_memory_needs_no_definitions() {
    let workloads = serde_json::json!({"items": [workload("Deployment", "registry-memory", 1, 1)]});
    let (_folder, program) = kubectl_of(&workloads, true);
    let findings = cluster(&program, &[]);
    assert!(
        !findings
            .iter()
            .any(|finding| finding.name.starts_with("definition")),
        "{findings:?}"
    );
    assert_eq!(named(&findings, "registry").state, State::Good);
    assert_eq!(named(&findings, "nsmgr").state, State::Missing);
}

#[test]
fn a_cluster_that_does_not_answer_is_the_only_finding() {
    let findings = cluster("/nowhere/kubectl", &[]);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].remedy.contains("install kubectl"), "{findings:?}");
}
