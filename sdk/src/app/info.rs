// SPDX-License-Identifier: Apache-2.0
//! Labels by setting and by where a program runs.

use nsm_api::matching::Labels;

use super::Failure;

/// Where a program runs, as the labels of its clients and endpoints tell.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InfoSettings {
    /// The label nodeName, where there is none
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// The label podName, where there is none
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// The label clusterName, where there is none
    #[arg(long, env = "CLUSTER_NAME")]
    pub cluster_name: Option<String>,
}

impl InfoSettings {
    /// The labels that are set.
    pub fn labels(&self) -> Labels {
        self.add_to(Labels::new())
    }

    /// The pod on its node, if both are told: it stays the same when the node is started anew, and a pod of the same name
    /// on another node is another one.
    pub fn place(&self) -> Option<String> {
        let cluster = self.cluster_name.as_deref().unwrap_or_default();
        let (node, pod) = (self.node_name.as_deref()?, self.pod_name.as_deref()?);
        Some(format!("{cluster}/{node}/{pod}"))
    }

    /// `labels`, and those that are set where they are absent.
    pub fn add_to(&self, mut labels: Labels) -> Labels {
        let all = [
            ("nodeName", &self.node_name),
            ("podName", &self.pod_name),
            ("clusterName", &self.cluster_name),
        ];
        for (key, value) in all {
            if let Some(value) = value {
                labels.entry(key.to_string()).or_insert_with(|| value.clone());
            }
        }
        labels
    }
}

/// Labels from a setting: each `key:value`.
pub fn labels(pairs: &[String]) -> Result<Labels, Failure> {
    let pairs = pairs
        .iter()
        .map(|pair| pair.trim())
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once(':').ok_or_else(|| {
                Failure::Settings(format!("the label {pair:?} is not of the form key:value"))
            })?;
            Ok((key.trim().to_string(), value.trim().to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs() {
        let pairs = ["app:fw".to_string(), " zone : a:b ".to_string(), String::new()];
        let expected =
            [("app", "fw"), ("zone", "a:b")].map(|(key, value)| (key.to_string(), value.to_string()));
        assert_eq!(labels(&pairs).ok(), Some(Labels::from(expected)));
        let error = labels(&["app".to_string()]).expect_err("no pair");
        assert_eq!(
            error.to_string(),
            "the label \"app\" is not of the form key:value"
        );
    }

    #[test]
    fn a_place_is_a_pod_on_its_node() {
        let info = |node: Option<&str>, pod: Option<&str>| InfoSettings {
            node_name: node.map(String::from),
            pod_name: pod.map(String::from),
            cluster_name: None,
        };
        let place = info(Some("n1"), Some("p1")).place();
        assert!(place.is_some());
        assert_ne!(place, info(Some("n2"), Some("p1")).place());
        assert_ne!(place, info(Some("n1"), Some("p2")).place());
        assert_eq!(info(Some("n1"), None).place(), None);
        assert_eq!(info(None, Some("p1")).place(), None);
    }

    #[test]
    fn where_we_run_does_not_overwrite_labels() {
        let info = InfoSettings {
            node_name: Some("n1".into()),
            ..Default::default()
        };
        let given = Labels::from([("nodeName".to_string(), "n2".to_string())]);
        assert_eq!(info.add_to(given.clone()), given);
        assert_eq!(info.labels()["nodeName"], "n1");
    }
}
