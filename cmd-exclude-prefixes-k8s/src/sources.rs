// SPDX-License-Identifier: Apache-2.0
//! Where prefixes come from.

use futures::future::select_all;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt};
use nsm_sdk::core::Component;
use nsm_sdk_k8s::mirror::{Known, Mirror, State};
use nsm_sdk_k8s::reach::Reach;
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::prefixes::{parse, read};
use crate::settings::Settings;

/// The prefixes of one object.
type Prefixes = Vec<IpNet>;

/// All sources.
pub(crate) struct Sources {
    component: Component,
    client: Client,
    reach: Reach,
    /// What was set.
    own: Prefixes,
    kubeadm: Mirror<Prefixes>,
    nodes: Mirror<Prefixes>,
    ranges: Mirror<Prefixes>,
    /// The services themselves, where the cluster does not tell their ranges.
    services: Option<Mirror<Prefixes>>,
    user: Mirror<Prefixes>,
    /// Fires when one of them has something new.
    changes: Vec<watch::Receiver<Known<Prefixes>>>,
}

impl Sources {
    /// Follows all of them.
    pub(crate) fn follow(component: &Component, client: &Client, reach: &Reach, settings: &Settings) -> Self {
        let own = read(
            "NSM_EXCLUDED_PREFIXES",
            settings.excluded_prefixes.iter().map(String::as_str),
        );
        let maps = |namespace: &str| Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let kubeadm = Mirror::start(
            component,
            reach,
            maps("kube-system"),
            named("kubeadm-config"),
            |map: &ConfigMap, _| Some(of_kubeadm(map)),
        );
        let (namespace, key) = (&settings.config_map_namespace, settings.config_map_key.clone());
        let user = Mirror::start(
            component,
            reach,
            maps(namespace),
            named(&settings.config_map_name),
            move |map: &ConfigMap, before| of_user(map, &key, before),
        );
        let nodes = Api::<Node>::all(client.clone());
        let ranges = Api::<ServiceCIDR>::all(client.clone());
        let everything = Config::default;
        let nodes = Mirror::start(component, reach, nodes, everything(), |node: &Node, _| {
            Some(of_node(node))
        });
        let ranges = Mirror::start(
            component,
            reach,
            ranges,
            everything(),
            |range: &ServiceCIDR, _| Some(of_range(range)),
        );
        let changes = [&kubeadm, &nodes, &ranges, &user].map(Mirror::follow).into();
        Self {
            component: component.clone(),
            client: client.clone(),
            reach: reach.clone(),
            own,
            kubeadm,
            nodes,
            ranges,
            services: None,
            user,
            changes,
        }
    }

    /// What all of them say, and whether all have told everything.
    pub(crate) fn now(&mut self) -> (Prefixes, bool) {
        if self.services.is_none() && self.ranges.now().state == State::Refused {
            info!("the networks of services are not told; their addresses are excluded one by one");
            let services = Mirror::start(
                &self.component,
                &self.reach,
                Api::<Service>::all(self.client.clone()),
                Config::default(),
                |service: &Service, _| of_service(service),
            );
            self.changes.push(services.follow());
            self.services = Some(services);
        }
        let mut prefixes = self.own.clone();
        let mut is_known = true;
        let mirrors = [&self.kubeadm, &self.nodes, &self.ranges, &self.user];
        for mirror in mirrors.into_iter().chain(&self.services) {
            let known = mirror.now();
            is_known &= known.state != State::Waiting;
            prefixes.extend(known.objects.values().flatten());
        }
        (prefixes, is_known)
    }

    /// Waits until one of them may say something else.
    pub(crate) async fn changed(&mut self) {
        // They end with us.
        let _which = select_all(self.changes.iter_mut().map(|change| Box::pin(change.changed()))).await;
    }
}

/// The one object of this name.
fn named(name: &str) -> Config {
    Config::default().fields(&format!("metadata.name={name}"))
}

/// The networks that the cluster was set up with.
fn of_kubeadm(map: &ConfigMap) -> Prefixes {
    #[derive(Default, Deserialize)]
    struct ClusterConfiguration {
        #[serde(default)]
        networking: Networking,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Networking {
        pod_subnet: String,
        service_subnet: String,
    }
    let place = "kube-system/kubeadm-config";
    let data = map.data.as_ref();
    let Some(yaml) = data.and_then(|data| data.get("ClusterConfiguration")) else {
        return Prefixes::new();
    };
    match serde_saphyr::from_str::<ClusterConfiguration>(yaml) {
        Ok(ClusterConfiguration { networking }) => {
            let subnets = [networking.pod_subnet, networking.service_subnet];
            read(place, subnets.iter().flat_map(|subnets| subnets.split(',')))
        }
        Err(error) => {
            warn!(place, %error, "its ClusterConfiguration cannot be read; all other prefixes count");
            Prefixes::new()
        }
    }
}

/// The networks of a node's pods.
fn of_node(node: &Node) -> Prefixes {
    let Some(spec) = &node.spec else {
        return Prefixes::new();
    };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let place = format!("node {}", node.name_any());
    let mut prefixes = read(&place, all.map(String::as_str));
    prefixes.dedup();
    prefixes
}

/// Networks of services.
fn of_range(range: &ServiceCIDR) -> Prefixes {
    let place = format!("ServiceCIDR {}", range.name_any());
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    read(&place, cidrs.map(String::as_str))
}

/// The addresses of a service; nothing for one without.
fn of_service(service: &Service) -> Option<Prefixes> {
    let spec = service.spec.as_ref()?;
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Prefixes = all
        .filter_map(|address| address.parse().ok())
        .map(|address: std::net::IpAddr| IpNet::from(address))
        .collect();
    addresses.sort();
    addresses.dedup();
    Some(addresses).filter(|addresses| !addresses.is_empty())
}

/// What the user excludes. What cannot be understood changes nothing.
fn of_user(map: &ConfigMap, key: &str, before: Option<Prefixes>) -> Option<Prefixes> {
    let place = format!(
        "ConfigMap {}/{}",
        map.namespace().unwrap_or_default(),
        map.name_any()
    );
    let Some(yaml) = map.data.as_ref().and_then(|data| data.get(key)) else {
        warn!(place, key, "excludes nothing: it has no such key");
        return None;
    };
    match parse(yaml) {
        Ok(texts) => Some(read(&place, texts.iter().map(String::as_str))),
        Err(error) => {
            warn!(
                place,
                key, error, "kept what it said before: it is no YAML with a list named prefixes"
            );
            before
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn nets(texts: &[&str]) -> Prefixes {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn map(key: &str, yaml: &str) -> ConfigMap {
        from_value(json!({ "metadata": { "name": "a" }, "data": { key: yaml } })).expect("a ConfigMap")
    }

    #[test]
    fn c136_both_families_of_kubeadm_nodes_and_services_count() {
        let yaml = "kind: ClusterConfiguration\nnetworking:\n  podSubnet: 10.244.0.0/16,fd00:1::/56\n  serviceSubnet: 10.96.0.0/12\n";
        assert_eq!(
            of_kubeadm(&map("ClusterConfiguration", yaml)),
            nets(&["10.244.0.0/16", "fd00:1::/56", "10.96.0.0/12"])
        );
        let node = |spec: Value| from_value(json!({ "spec": spec })).expect("a node");
        let both =
            node(json!({ "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1:0:1::/64"] }));
        let merged = crate::prefixes::merge(&of_node(&both));
        assert_eq!(merged, nets(&["10.244.1.0/24", "fd00:1:0:1::/64"]));
        assert_eq!(
            of_node(&node(json!({ "podCIDR": "10.244.1.0/24" }))),
            nets(&["10.244.1.0/24"])
        );
        assert_eq!(of_node(&node(json!({}))), nets(&[]));
        let range = from_value(json!({ "spec": { "cidrs": ["10.96.0.0/12", "fd00:2::/108"] } }));
        assert_eq!(
            of_range(&range.expect("a range")),
            nets(&["10.96.0.0/12", "fd00:2::/108"])
        );
    }

    #[test]
    fn services_without_an_address_are_nothing_to_tell() {
        let service = |spec: Value| of_service(&from_value(json!({ "spec": spec })).expect("a service"));
        let both = json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:2::1"] });
        assert_eq!(service(both), Some(nets(&["10.96.0.1/32", "fd00:2::1/128"])));
        for none in [
            json!({ "clusterIP": "None", "clusterIPs": ["None"] }),
            json!({ "clusterIP": "" }),
            json!({}),
        ] {
            assert_eq!(service(none), None);
        }
    }

    #[test]
    fn what_a_user_gets_wrong_changes_nothing_else() {
        let user = |yaml: &str, before: Option<Prefixes>| of_user(&map("k", yaml), "k", before);
        let before = Some(nets(&["10.0.0.0/8"]));
        assert_eq!(
            user("prefixes: [172.16.1.0/24, 172.16.2.0/99]", None),
            Some(nets(&["172.16.1.0/24"]))
        );
        assert_eq!(user("prefixes: {", before.clone()), before);
        assert_eq!(user("prefixes: [", None), None);
        assert_eq!(of_user(&map("other", ""), "k", before), None);
    }

    #[test]
    fn a_strange_kubeadm_says_nothing() {
        for yaml in ["", "networking: 7", "{", "kind: ClusterConfiguration"] {
            assert_eq!(
                of_kubeadm(&map("ClusterConfiguration", yaml)),
                nets(&[]),
                "{yaml}"
            );
        }
        assert_eq!(of_kubeadm(&ConfigMap::default()), nets(&[]));
    }
}
