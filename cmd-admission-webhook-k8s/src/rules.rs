// SPDX-License-Identifier: Apache-2.0
//! What every annotated pod gets, by our settings.

use std::collections::BTreeMap;

use nsm_api::matching::Labels;
use nsm_sdk::app::{Failure, labels};
use serde_json::{Value, json};

use crate::settings::Settings;

/// What pods may be given besides what they ask for, checked.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The key of the annotation.
    pub(crate) annotation: String,
    /// The labels that a pod gets.
    pub(crate) labels: Labels,
    /// Who signs the certificates of pods, if they get any.
    pub(crate) signer: Option<String>,
    /// What runs and ends first.
    pub(crate) init_images: Vec<Image>,
    /// What runs as long as the pod does.
    pub(crate) images: Vec<Image>,
    /// The variable with the services.
    pub(crate) services_variable: String,
    /// More variables.
    pub(crate) variables: Vec<(String, String)>,
    /// Whether the pod's containers have a resolv.conf that our images may change.
    pub(crate) shares_resolv_conf: bool,
    limits: BTreeMap<&'static str, String>,
    requests: BTreeMap<&'static str, String>,
}

/// An image, and the name of its container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// The last element of its path.
    pub(crate) name: String,
    /// As it is pulled.
    pub(crate) reference: String,
}

/// Variables that the pod itself decides.
pub(crate) const POD_NAME: &str = "POD_NAME";
pub(crate) const POD_UID: &str = "POD_UID";
pub(crate) const NODE_NAME: &str = "NODE_NAME";
pub(crate) const NAME: &str = "NSM_NAME";

/// The variable that says how long a client's tokens are valid, and so how long its wires last without it.
pub(crate) const MAX_TOKEN_LIFETIME: &str = "NSM_MAX_TOKEN_LIFETIME";

/// Variables by which a client knows its resolv.conf, and whether it is to care: who sets one of them does it all.
pub(crate) const RESOLV_CONFIG_PATH: &str = "NSM_RESOLV_CONFIG_PATH";
const LOCAL_DNS_SERVER_ENABLED: &str = "NSM_LOCAL_DNS_SERVER_ENABLED";

impl Rules {
    /// Errors: a setting that no pod could be started with.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let (init_images, images) = (
            read_images(&settings.init_container_images)?,
            read_images(&settings.container_images)?,
        );
        if images.is_empty() && init_images.is_empty() {
            return Err(wrong(
                "NSM_CONTAINER_IMAGES is empty; name the image of a client".into(),
            ));
        }
        let mut names: Vec<_> = init_images
            .iter()
            .chain(&images)
            .map(|image| &image.name)
            .collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let text = format!("two images make containers named {:?}; rename one", pair[0]);
            return Err(wrong(text));
        }
        check_key("NSM_ANNOTATION", &settings.annotation)?;
        let labels = labels(&settings.labels)?;
        labels.keys().try_for_each(|key| check_key("NSM_LABELS", key))?;
        let (limits, requests) = (
            resources(&settings.sidecar_limits_memory, &settings.sidecar_limits_cpu),
            resources(&settings.sidecar_requests_memory, &settings.sidecar_requests_cpu),
        );
        check_resources(&limits, &requests)?;
        let variables = variables(settings)?;
        Ok(Self {
            shares_resolv_conf: settings.share_resolv_conf
                && !init_images.is_empty()
                && ![RESOLV_CONFIG_PATH, LOCAL_DNS_SERVER_ENABLED]
                    .iter()
                    .any(|name| is_among(&variables, name)),
            annotation: settings.annotation.clone(),
            labels,
            signer: Some(settings.signer_name.trim().to_string()).filter(|name| !name.is_empty()),
            init_images,
            images,
            services_variable: settings.nsurl_env_name.clone(),
            variables,
            limits,
            requests,
        })
    }

    /// Whether the settings give pods this variable.
    pub(crate) fn sets(&self, name: &str) -> bool {
        is_among(&self.variables, name)
    }

    /// The resources of a container that needs these devices besides.
    pub(crate) fn resources(&self, devices: &BTreeMap<String, u64>) -> Value {
        let all = |given: &BTreeMap<&str, String>| {
            let mut all = json!(given);
            if let Some(map) = all.as_object_mut() {
                let devices = devices.iter();
                map.extend(devices.map(|(name, count)| (name.clone(), json!(count.to_string()))));
            }
            all
        };
        json!({ "limits": all(&self.limits), "requests": all(&self.requests) })
    }

    /// A key beside the annotation, for marks of ours.
    pub(crate) fn mark(&self, name: &str) -> String {
        let domain = self
            .annotation
            .split_once('/')
            .map_or(self.annotation.as_str(), |(domain, _)| domain);
        format!("{domain}/{name}")
    }
}

fn is_among(variables: &[(String, String)], name: &str) -> bool {
    variables.iter().any(|(known, _)| known == name)
}

fn read_images(references: &[String]) -> Result<Vec<Image>, Failure> {
    let references = references.iter().map(|reference| reference.trim());
    references
        .filter(|reference| !reference.is_empty())
        .map(read_image)
        .collect()
}

fn read_image(reference: &str) -> Result<Image, Failure> {
    let path = reference.split_once('@').map_or(reference, |(path, _)| path);
    let last = path.rsplit_once('/').map_or(path, |(_, last)| last);
    let name = last.split_once(':').map_or(last, |(name, _)| name);
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=63).contains(&name.len())
        || !name.bytes().all(is_inner)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(wrong(format!(
            "image {reference:?} makes a container named {name:?}; lower case letters, digits and '-' make a name"
        )));
    }
    Ok(Image {
        name: name.into(),
        reference: reference.into(),
    })
}

/// Variables of `NSM_ENVS`; those that the pod decides are not among them.
fn variables(settings: &Settings) -> Result<Vec<(String, String)>, Failure> {
    let pairs = settings.envs.iter().filter(|pair| !pair.trim().is_empty());
    let mut variables = Vec::new();
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            wrong(format!(
                "NSM_ENVS has {pair:?}, which is not of the form KEY=VALUE"
            ))
        })?;
        let name = name.trim();
        if [
            POD_NAME,
            POD_UID,
            NODE_NAME,
            NAME,
            settings.nsurl_env_name.as_str(),
        ]
        .contains(&name)
        {
            tracing::warn!(name, "a variable of NSM_ENVS has no effect: the pod decides it");
            continue;
        }
        variables.push((name.to_string(), value.to_string()));
    }
    Ok(variables)
}

/// A qualified name of Kubernetes: `name` or `domain/name`.
fn check_key(variable: &str, key: &str) -> Result<(), Failure> {
    let is_name = |text: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=63).contains(&text.len())
            && text.bytes().all(is_inner)
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.ends_with(|last: char| last.is_ascii_alphanumeric())
    };
    if key.split('/').count() <= 2 && key.split('/').all(is_name) {
        return Ok(());
    }
    Err(wrong(format!(
        "{variable} has the key {key:?}; a key is a name or domain/name"
    )))
}

fn resources(memory: &str, cpu: &str) -> BTreeMap<&'static str, String> {
    let both = [("memory", memory), ("cpu", cpu)];
    let given = both.into_iter().filter(|(_, amount)| !amount.trim().is_empty());
    given
        .map(|(name, amount)| (name, amount.trim().to_string()))
        .collect()
}

fn check_resources(
    limits: &BTreeMap<&'static str, String>,
    requests: &BTreeMap<&'static str, String>,
) -> Result<(), Failure> {
    let read = |name: &str, amount: &String| {
        quantity(amount).ok_or_else(|| {
            wrong(format!(
                "the {name} {amount:?} is no quantity; write such as 80Mi or 200m"
            ))
        })
    };
    for (name, limit) in limits {
        let most = read(name, limit)?;
        if let Some(request) = requests.get(name).filter(|_| most >= 0.0)
            && read(name, request)? > most
        {
            let text =
                format!("each container requests {request} of {name} and may have {limit}; request less");
            return Err(wrong(text));
        }
    }
    requests
        .iter()
        .try_for_each(|(name, amount)| read(name, amount).map(drop))
}

/// What a quantity of Kubernetes is in its unit.
fn quantity(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
    let (number, factor) = match unit {
        Some((unit, factor)) => (text.strip_suffix(unit)?, *factor),
        None => (text, 1.0),
    };
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    number
        .parse::<f64>()
        .ok()
        .filter(|_| is_plain)
        .map(|number| number * factor)
}

fn wrong(text: String) -> Failure {
    Failure::Settings(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn rules(arguments: &[&str]) -> Result<Rules, String> {
        let client = ["webhook", "--container-images=cmd-nsc:v1"];
        let settings = Settings::parse_from([&client[..], arguments].concat());
        Rules::new(&settings).map_err(|failure| failure.to_string())
    }

    fn refused(arguments: &[&str]) -> String {
        rules(arguments).expect_err("refused")
    }

    #[test]
    fn containers_are_named_by_their_images() {
        let names = [
            ("cmd-nsc", "cmd-nsc"),
            ("cmd-nsc:v1", "cmd-nsc"),
            ("host:5000/a/cmd-nsc@sha256:00", "cmd-nsc"),
            ("host:5000/cmd-nsc:v1@sha256:00", "cmd-nsc"),
        ];
        for (reference, name) in names {
            assert_eq!(read_image(reference).expect(reference).name, name);
        }
        assert!(read_image("host/UPPER").is_err());
        assert!(refused(&["--init-container-images=other/cmd-nsc"]).contains("rename one"));
        let none = Settings::parse_from(["webhook", "--container-images="]);
        assert!(Rules::new(&none).is_err());
    }

    #[test]
    fn what_no_pod_could_start_with_is_refused_at_start() {
        assert!(refused(&["--sidecar-limits-memory=much"]).contains("no quantity"));
        assert!(refused(&["--sidecar-requests-cpu=1"]).contains("request less"));
        assert!(refused(&["--envs=A"]).contains("KEY=VALUE"));
        assert!(refused(&["--labels=a/b/c:d"]).contains("NSM_LABELS"));
        assert!(refused(&["--annotation=it's"]).contains("NSM_ANNOTATION"));
        assert!(rules(&["--sidecar-limits-cpu=", "--sidecar-requests-cpu=1"]).is_ok());
    }

    #[test]
    fn variables_that_the_pod_decides_are_left_to_it() {
        let rules = rules(&["--envs=NSM_NAME=x,NSM_LOG_LEVEL=DEBUG,A=b=c"]).expect("fine");
        let expected = [("NSM_LOG_LEVEL", "DEBUG"), ("A", "b=c")];
        assert_eq!(
            rules.variables,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
    }

    #[test]
    fn resolv_conf_is_shared_where_somebody_makes_it_and_nobody_says_otherwise() {
        let shares = |arguments: &[&str]| rules(arguments).expect("fine").shares_resolv_conf;
        let init = "--init-container-images=cmd-nsc-init";
        assert!(shares(&[init]));
        assert!(!shares(&[]));
        assert!(!shares(&[init, "--share-resolv-conf=false"]));
        assert!(!shares(&[init, "--envs=NSM_LOCAL_DNS_SERVER_ENABLED=false"]));
        assert!(!shares(&[init, "--envs=NSM_RESOLV_CONFIG_PATH=/etc/resolv.conf"]));
    }

    #[test]
    fn devices_are_limits_and_requests() {
        let rules = rules(&["--sidecar-limits-cpu="]).expect("fine");
        let devices = BTreeMap::from([("w.d/10G".to_string(), 2)]);
        assert_eq!(
            rules.resources(&devices),
            json!({
                "limits": { "memory": "80Mi", "w.d/10G": "2" },
                "requests": { "memory": "40Mi", "cpu": "100m", "w.d/10G": "2" },
            })
        );
    }

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, amount) in [("80Mi", 83_886_080.0), ("200m", 0.2), ("1", 1.0), ("1.5G", 1.5e9)] {
            assert_eq!(quantity(text), Some(amount), "{text}");
        }
        for text in ["", "Mi", "-1", "1e", "x", "inf", "NaN"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
