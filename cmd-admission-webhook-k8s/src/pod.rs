// SPDX-License-Identifier: Apache-2.0
//! What a pod gets that is to be connected.
//!
//! **Guarantees**: our containers come before all others of the pod, and the client ends after all others, since it is
//! a native sidecar; what a pod has stays as it is. A pod that has our containers is left alone.

use serde_json::{Value, json};

use crate::patch::{Patch, items, text};
use crate::rules::{
    Image, MAX_TOKEN_LIFETIME, NAME, NODE_NAME, POD_NAME, POD_UID, RESOLV_CONFIG_PATH, Rules,
};
use crate::services::Services;
use volumes::Volume;

mod resolver;
mod volumes;

/// How much the namespace of a pod lets it do, by its label `pod-security.kubernetes.io/enforce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Anything.
    Privileged,
    /// Nothing of the node.
    Baseline,
    /// No more than it needs.
    Restricted,
}

impl Level {
    /// The level that a label names.
    pub(crate) fn of(label: Option<&str>) -> Self {
        match label {
            Some("restricted") => Self::Restricted,
            Some("baseline") => Self::Baseline,
            _ => Self::Privileged,
        }
    }
}

/// Which groups may send pings, by which a client sees whether a wire lives.
const PINGS: (&str, &str) = ("net.ipv4.ping_group_range", "0 2147483647");

/// How long a wire lasts that its client has not taken over: a pod may be killed before that is started.
const TO_TAKE_OVER: &str = "1m";

/// Connects a pod, and tells what is odd about it.
///
/// Errors: why it cannot be connected.
pub(crate) fn connect(
    rules: &Rules,
    level: Level,
    services: &Services,
    pod: &Value,
) -> Result<(Patch, Vec<String>), String> {
    let (mut patch, mut warnings) = (Patch::of(pod.clone()), Vec::new());
    if let Some(container) = ours(rules, pod) {
        warnings.extend(differs(rules, services, container));
        return Ok((patch, warnings));
    }
    let is_on_host = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    if is_on_host {
        warnings.push("the pod has hostNetwork: its wire is an interface of the node".to_string());
    } else {
        add_sysctl(&mut patch, PINGS.0, PINGS.1);
    }
    let has_resolver = rules.shares_resolv_conf && !is_on_host;
    if has_resolver {
        warnings.extend(resolver::add(&mut patch));
    }
    let volumes = volumes::of(rules, level, has_resolver);
    add_volumes(&volumes, &mut patch)?;
    let mut variables = variables(rules, services, pod);
    if has_resolver {
        variables.push(plain(RESOLV_CONFIG_PATH, resolver::PATH));
    }
    let ours = Ours {
        level,
        variables,
        volumes,
    };
    let make = |image: &Image, lasts| ours.container(rules, services, image, lasts);
    let containers = rules.init_images.iter().map(|image| make(image, false));
    let containers = containers.chain(rules.images.iter().map(|image| make(image, true)));
    patch.prepend(&["spec", "initContainers"], containers.collect());
    warnings.extend(add_labels(rules, &mut patch));
    Ok((patch, warnings))
}

/// A container of the pod that has the name of one of ours.
fn ours<'a>(rules: &Rules, pod: &'a Value) -> Option<&'a Value> {
    let lists = [&["spec", "initContainers"], &["spec", "containers"]];
    let mut containers = lists.into_iter().flat_map(|list| items(pod, list));
    containers.find(|container| {
        let name = text(container, &["name"]);
        let mut images = rules.init_images.iter().chain(&rules.images);
        images.any(|image| name == Some(image.name.as_str()))
    })
}

/// What is odd about a container that is there already.
fn differs(rules: &Rules, services: &Services, container: &Value) -> Option<String> {
    let variables = items(container, &["env"]).iter();
    let mut told = variables.filter(|one| text(one, &["name"]) == Some(rules.services_variable.as_str()));
    let told = told.next_back().and_then(|one| text(one, &["value"]));
    (told != Some(services.text.as_str())).then(|| {
        let name = text(container, &["name"]).unwrap_or_default();
        format!("the pod has a container {name:?} already and is left as it is; its annotation has no effect")
    })
}

/// Sets a sysctl of the pod, unless the pod says something about it.
fn add_sysctl(patch: &mut Patch, name: &str, value: &str) {
    let list = ["spec", "securityContext", "sysctls"];
    let is_set = items(patch.document(), &list)
        .iter()
        .any(|one| text(one, &["name"]) == Some(name));
    if !is_set {
        patch.append(&list, vec![json!({ "name": name, "value": value })]);
    }
}

/// Errors: there is another volume of one of our names.
fn add_volumes(volumes: &[Volume], patch: &mut Patch) -> Result<(), String> {
    let list = ["spec", "volumes"];
    let mut missing = Vec::new();
    for volume in volumes {
        let mut named = items(patch.document(), &list)
            .iter()
            .filter(|one| text(one, &["name"]) == Some(volume.name));
        match named.next() {
            None => missing.push(volume.object.clone()),
            Some(other) if volume.is(other) => {}
            Some(_) => {
                return Err(format!(
                    "the pod has another volume named {:?}; give it another name",
                    volume.name
                ));
            }
        }
    }
    patch.append(&list, missing);
    Ok(())
}

/// Labels that the pod has with another value are kept, and told of.
fn add_labels(rules: &Rules, patch: &mut Patch) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, value) in &rules.labels {
        let path = ["metadata", "labels", key];
        match patch.get(&path).and_then(Value::as_str) {
            Some(given) if given != value => warnings.push(format!(
                "the pod keeps its label {key}: {given}; with another value than {value} it may get no identity"
            )),
            _ => patch.put(&path, json!(value)),
        }
    }
    warnings
}

/// What all containers of ours have in a pod.
struct Ours {
    level: Level,
    variables: Vec<Value>,
    volumes: Vec<Volume>,
}

impl Ours {
    /// One of them; `lasts` is whether it runs as long as the pod does.
    fn container(&self, rules: &Rules, services: &Services, image: &Image, lasts: bool) -> Value {
        let mut container = json!({
            "name": image.name,
            "image": image.reference,
            "imagePullPolicy": "IfNotPresent",
            "env": self.variables_of(rules, lasts),
            "resources": rules.resources(&services.devices),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            // A client that cannot start says in its last lines why: they are seen by kubectl describe.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": self.volumes.iter().map(Volume::mount).collect::<Vec<_>>(),
        });
        if lasts {
            container["restartPolicy"] = json!("Always");
        }
        if self.level == Level::Restricted {
            container["securityContext"]["runAsNonRoot"] = json!(true);
        }
        container
    }

    fn variables_of(&self, rules: &Rules, lasts: bool) -> Vec<Value> {
        let mut variables = self.variables.clone();
        let is_taken_over = !lasts && !rules.images.is_empty();
        if is_taken_over && !rules.sets(MAX_TOKEN_LIFETIME) {
            variables.push(plain(MAX_TOKEN_LIFETIME, TO_TAKE_OVER));
        }
        variables
    }
}

fn plain(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn variables(rules: &Rules, services: &Services, pod: &Value) -> Vec<Value> {
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    // Others stand behind these, so that they can be made of them: $(POD_NAME).
    let mut variables = vec![
        field(POD_NAME, "metadata.name"),
        field(POD_UID, "metadata.uid"),
        field(NODE_NAME, "spec.nodeName"),
    ];
    let (identity, place) = volumes::identity(rules);
    if !rules.sets(identity) {
        variables.push(plain(identity, place));
    }
    variables.extend(rules.variables.iter().map(|(name, value)| plain(name, value)));
    // A pod whose name is chosen by people comes again under the same name, and is another one then.
    let name = match text(pod, &["metadata", "generateName"]) {
        Some(_) => "$(POD_NAME)",
        None => "$(POD_NAME)-$(POD_UID)",
    };
    variables.push(plain(NAME, name));
    variables.push(plain(&rules.services_variable, &services.text));
    variables
}

#[cfg(test)]
mod tests;
