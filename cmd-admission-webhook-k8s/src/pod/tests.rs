// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::testing::{rules, rules_with};

fn services(text: &str) -> Services {
    Services::read(text).expect("good").expect("not empty")
}

fn plain() -> Value {
    json!({
        "metadata": { "generateName": "app-", "labels": { "app": "a" } },
        "spec": { "containers": [{ "name": "app", "image": "app" }], "volumes": [{ "name": "own", "emptyDir": {} }] },
    })
}

/// What becomes of the pod, and what is told.
fn connected(pod: &Value, level: Level, text: &str) -> (Value, Vec<String>) {
    let (patch, warnings) = connect(&rules(), level, &services(text), pod).expect("connected");
    (patch.document().clone(), warnings)
}

fn variables(container: &Value) -> Vec<(String, String)> {
    let read = |one: &Value| {
        let value = text(one, &["value"]).or(text(one, &["valueFrom", "fieldRef", "fieldPath"]));
        let both = [text(one, &["name"]), value].map(|text| text.unwrap_or_default().to_string());
        both.into()
    };
    items(container, &["env"]).iter().map(read).collect()
}

#[test]
fn the_client_is_a_native_sidecar_before_everything_else() {
    let mut pod = plain();
    pod["spec"]["initContainers"] = json!([{ "name": "theirs" }]);
    let (pod, warnings) = connected(&pod, Level::Privileged, "kernel://a/nsm-1");
    let containers = items(&pod, &["spec", "initContainers"]);
    let told: Vec<_> = containers
        .iter()
        .map(|one| (text(one, &["name"]), text(one, &["restartPolicy"])))
        .collect();
    assert_eq!(
        told,
        [
            (Some("cmd-nsc-init"), None),
            (Some("cmd-nsc"), Some("Always")),
            (Some("theirs"), None)
        ]
    );
    assert_eq!(items(&pod, &["spec", "containers"]).len(), 1);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn variables_are_in_an_order_in_which_each_finds_what_it_needs() {
    let (pod, _) = connected(&plain(), Level::Privileged, "kernel://a/nsm-1, kernel://b");
    let expected = [
        ("POD_NAME", "metadata.name"),
        ("POD_UID", "metadata.uid"),
        ("NODE_NAME", "spec.nodeName"),
        ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/sockets/agent.sock"),
        ("NSM_LOG_LEVEL", "INFO"),
        ("NSM_NAME", "$(POD_NAME)"),
        ("NSM_NETWORK_SERVICES", "kernel://a/nsm-1,kernel://b"),
        ("NSM_RESOLV_CONFIG_PATH", "/run/nsm-resolv-conf/resolv.conf"),
    ];
    let expected = expected.map(|(name, value)| (name.to_string(), value.to_string()));
    let [init, client] = items(&pod, &["spec", "initContainers"]) else {
        panic!("two containers");
    };
    assert_eq!(variables(client), expected);
    assert_eq!(variables(init)[..expected.len()], expected);
}

#[test]
fn a_wire_that_its_client_never_takes_over_does_not_last() {
    let lifetime = |rules: &Rules, number: usize| {
        let (patch, _) =
            connect(rules, Level::Privileged, &services("kernel://a/nsm-1"), &plain()).expect("connected");
        let container = &patch.document()["spec"]["initContainers"][number];
        let mut told = variables(container)
            .into_iter()
            .filter(|(name, _)| name == MAX_TOKEN_LIFETIME);
        (told.next().map(|(_, value)| value), told.next())
    };
    assert_eq!(lifetime(&rules(), 0), (Some("1m".to_string()), None));
    assert_eq!(lifetime(&rules(), 1), (None, None));
    let told = rules_with(&["--envs=NSM_MAX_TOKEN_LIFETIME=5m"]);
    for number in [0, 1] {
        assert_eq!(lifetime(&told, number), (Some("5m".to_string()), None));
    }
}

#[test]
fn a_pod_that_people_name_is_another_one_each_time() {
    let mut pod = plain();
    pod["metadata"] = json!({ "name": "app" });
    let (pod, _) = connected(&pod, Level::Privileged, "kernel://a");
    let name = variables(&pod["spec"]["initContainers"][0])
        .into_iter()
        .find(|(name, _)| name == "NSM_NAME");
    assert_eq!(
        name.map(|(_, value)| value).as_deref(),
        Some("$(POD_NAME)-$(POD_UID)")
    );
}

#[test]
fn a_pod_that_has_been_connected_is_left_alone() {
    let (pod, _) = connected(&plain(), Level::Privileged, "kernel://a/nsm-1");
    let again = connect(&rules(), Level::Privileged, &services("kernel://a/nsm-1"), &pod);
    let (patch, warnings) = again.expect("fine");
    assert!(patch.into_operations().is_empty());
    assert!(warnings.is_empty(), "{warnings:?}");
    let (_, warnings) = connected(&pod, Level::Privileged, "kernel://b");
    assert!(warnings[0].contains("left as it is"), "{warnings:?}");
}

#[test]
fn volumes_of_the_node_wait_for_the_mesh_and_those_of_drivers_need_no_right() {
    let (pod, _) = connected(&plain(), Level::Privileged, "kernel://a");
    let types: Vec<_> = items(&pod, &["spec", "volumes"])
        .iter()
        .filter_map(|one| text(one, &["hostPath", "type"]))
        .collect();
    assert_eq!(types, ["DirectoryOrCreate"; 2]);
    for level in [Level::Baseline, Level::Restricted] {
        let (pod, _) = connected(&plain(), level, "kernel://a");
        let volumes = items(&pod, &["spec", "volumes"]);
        let drivers: Vec<_> = volumes
            .iter()
            .filter_map(|one| text(one, &["csi", "driver"]))
            .collect();
        assert_eq!(drivers, ["csi.spiffe.io", "csi.networkservicemesh.io"]);
        assert!(volumes.iter().all(|one| one.get("hostPath").is_none()));
    }
}

#[test]
fn where_certificates_are_signed_pods_get_one_in_place_of_a_socket() {
    let signer = "networkservicemesh.io/spiffe";
    let rules = rules_with(&["--signer-name", signer]);
    for level in [Level::Privileged, Level::Restricted] {
        let (patch, warnings) = connect(&rules, level, &services("kernel://a"), &plain()).expect("connected");
        assert!(warnings.is_empty(), "{warnings:?}");
        let pod = patch.document();
        let volume = &items(pod, &["spec", "volumes"])[1];
        let sources = items(volume, &["projected", "sources"]);
        assert_eq!(sources[0]["podCertificate"]["signerName"], signer);
        assert_eq!(sources[1]["clusterTrustBundle"]["path"], "ca.crt");
        for container in items(pod, &["spec", "initContainers"]) {
            let place = ("NSM_IDENTITY_DIR".to_string(), "/run/nsm-identity".to_string());
            let variables = variables(container);
            assert!(variables.contains(&place), "{variables:?}");
            assert!(variables.iter().all(|(name, _)| name != "SPIFFE_ENDPOINT_SOCKET"));
            assert_eq!(container["volumeMounts"][0]["mountPath"], "/run/nsm-identity");
        }
        let again = connect(&rules, level, &services("kernel://a"), pod).expect("fine");
        assert!(again.0.into_operations().is_empty());
    }
}

#[test]
fn volumes_that_are_there_are_used_and_others_of_their_name_refused() {
    let mut pod = plain();
    pod["spec"]["volumes"] = json!([
        { "name": "nsm-socket", "hostPath": { "path": "/var/lib/networkservicemesh", "type": "Directory" } },
    ]);
    let (connected, _) = connected(&pod, Level::Privileged, "kernel://a");
    let names: Vec<_> = items(&connected, &["spec", "volumes"])
        .iter()
        .filter_map(|one| text(one, &["name"]))
        .collect();
    assert_eq!(names, ["nsm-socket", "spire-agent-socket", "nsm-resolv-conf"]);
    pod["spec"]["volumes"][0] = json!({ "name": "nsm-socket", "emptyDir": {} });
    let refused = connect(&rules(), Level::Privileged, &services("kernel://a"), &pod);
    assert!(refused.is_err_and(|error| error.contains("another name")));
}

#[test]
fn a_restricted_pod_stays_restricted() {
    let (pod, _) = connected(&plain(), Level::Restricted, "kernel://a");
    let expected = json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" }, "runAsNonRoot": true,
    });
    for container in items(&pod, &["spec", "initContainers"]) {
        assert_eq!(container["securityContext"], expected);
    }
    assert_eq!(Level::of(Some("baseline")), Level::Baseline);
    assert_eq!(Level::of(None), Level::Privileged);
}

#[test]
fn devices_are_given_to_each_container_that_asks_for_the_service() {
    let text = "vfio://a?sriovToken=w.d/10G,vfio://b?sriovToken=w.d/10G";
    let (pod, _) = connected(&plain(), Level::Privileged, text);
    for container in items(&pod, &["spec", "initContainers"]) {
        for kind in ["limits", "requests"] {
            assert_eq!(container["resources"][kind]["w.d/10G"], "2", "{container}");
            assert!(container["resources"][kind]["memory"].is_string());
        }
    }
}

#[test]
fn labels_are_added_and_those_of_the_pod_kept() {
    let (pod, _) = connected(&plain(), Level::Privileged, "kernel://a");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({ "app": "a", "spiffe.io/spiffe-id": "true" })
    );
    let mut other = plain();
    other["metadata"]["labels"]["spiffe.io/spiffe-id"] = json!("false");
    let (pod, warnings) = connected(&other, Level::Privileged, "kernel://a");
    assert_eq!(pod["metadata"]["labels"], other["metadata"]["labels"]);
    assert!(warnings[0].contains("keeps its label"), "{warnings:?}");
}

#[test]
fn pings_are_allowed_once_and_not_on_the_network_of_the_node() {
    let sysctls = |pod: &Value| {
        let all = items(pod, &["spec", "securityContext", "sysctls"]).iter();
        let pings = all.filter(|one| text(one, &["name"]) == Some("net.ipv4.ping_group_range"));
        pings.cloned().collect::<Vec<_>>()
    };
    let (pod, _) = connected(&plain(), Level::Restricted, "kernel://a");
    assert_eq!(sysctls(&pod).len(), 1);
    let mut own = plain();
    own["spec"]["securityContext"] =
        json!({ "sysctls": [{ "name": "net.ipv4.ping_group_range", "value": "0 0" }] });
    let (pod, _) = connected(&own, Level::Privileged, "kernel://a");
    assert_eq!(sysctls(&pod), sysctls(&own));
    let mut host = plain();
    host["spec"]["hostNetwork"] = json!(true);
    let (pod, warnings) = connected(&host, Level::Privileged, "kernel://a");
    assert!(sysctls(&pod).is_empty());
    assert!(warnings[0].contains("hostNetwork"), "{warnings:?}");
}

/// Where a container has the file that the client changes, and which file of the volume it is.
fn resolv_conf(container: &Value) -> Vec<(&str, Option<&str>)> {
    let mounts = items(container, &["volumeMounts"]).iter();
    let ours = mounts.filter(|mount| text(mount, &["name"]) == Some("nsm-resolv-conf"));
    ours.map(|mount| {
        (
            text(mount, &["mountPath"]).unwrap_or_default(),
            text(mount, &["subPath"]),
        )
    })
    .collect()
}

#[test]
fn all_containers_have_the_resolv_conf_that_the_client_changes() {
    let mut pod = plain();
    pod["spec"]["initContainers"] =
        json!([{ "name": "theirs", "volumeMounts": [{ "name": "own", "mountPath": "/x" }] }]);
    for level in [Level::Privileged, Level::Restricted] {
        let (pod, warnings) = connected(&pod, level, "kernel://a");
        assert!(warnings.is_empty(), "{warnings:?}");
        let init = items(&pod, &["spec", "initContainers"]);
        for ours in &init[..2] {
            assert_eq!(resolv_conf(ours), [("/run/nsm-resolv-conf", None)]);
            let path = (
                "NSM_RESOLV_CONFIG_PATH".to_string(),
                "/run/nsm-resolv-conf/resolv.conf".to_string(),
            );
            assert!(variables(ours).contains(&path));
        }
        for theirs in [&init[2], &pod["spec"]["containers"][0]] {
            assert_eq!(resolv_conf(theirs), [("/etc/resolv.conf", Some("resolv.conf"))]);
        }
        assert_eq!(init[2]["volumeMounts"][0]["mountPath"], "/x");
        let ports = json!({ "name": "net.ipv4.ip_unprivileged_port_start", "value": "53" });
        assert!(items(&pod, &["spec", "securityContext", "sysctls"]).contains(&ports));
    }
}

#[test]
fn a_container_with_a_resolv_conf_of_its_own_keeps_it_and_it_is_told() {
    let mut pod = plain();
    let own = json!([{ "name": "own", "mountPath": "/etc/resolv.conf" }]);
    pod["spec"]["containers"][0]["volumeMounts"] = own.clone();
    let (pod, warnings) = connected(&pod, Level::Privileged, "kernel://a");
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"], own);
    assert!(
        warnings[0].contains("\"app\" has a /etc/resolv.conf of its own"),
        "{warnings:?}"
    );
}

#[test]
fn where_resolv_conf_is_not_shared_nothing_of_it_is_there() {
    let mut host = plain();
    host["spec"]["hostNetwork"] = json!(true);
    let apart = rules_with(&["--share-resolv-conf=false"]);
    for (rules, pod) in [(&rules(), &host), (&apart, &plain())] {
        let (patch, _) = connect(rules, Level::Privileged, &services("kernel://a"), pod).expect("connected");
        let text = patch.document().to_string();
        assert!(
            !text.contains("resolv") && !text.contains("ip_unprivileged_port_start"),
            "{text}"
        );
    }
}
