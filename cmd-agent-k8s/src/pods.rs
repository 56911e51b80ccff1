// SPDX-License-Identifier: Apache-2.0
//! Which pod of this node a client is.
//!
//! Its namespace and its name are in the identity that its manager has seen. Its uid, by which people see Events where they
//! look at the pod, is in the name of the folder of logs that the kubelet has for it: so nobody needs a right to read
//! pods, and nobody is asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
}

/// The pods of this node.
#[derive(Clone, Debug)]
pub(crate) struct Pods {
    logs: PathBuf,
}

impl Pods {
    /// Those whose logs are in the folder `logs`.
    pub(crate) fn of(logs: &Path) -> Self {
        Self { logs: logs.into() }
    }

    /// The pod with this identity, if it is one of a pod, and of this node.
    pub(crate) fn find(&self, spiffe_id: &str) -> Option<Pod> {
        let (namespace, name) = names(spiffe_id)?;
        let prefix = format!("{namespace}_{name}_");
        let entries = fs::read_dir(&self.logs).ok()?.flatten();
        let mut found: Vec<(SystemTime, String)> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let uid = name.strip_prefix(&prefix)?.to_string();
                let since = entry.metadata().and_then(|metadata| metadata.modified());
                Some((since.unwrap_or(SystemTime::UNIX_EPOCH), uid))
            })
            .collect();
        // The logs of a pod that had the name before may still be there.
        found.sort_unstable();
        let (_, uid) = found.pop()?;
        Some(Pod {
            namespace: namespace.into(),
            name: name.into(),
            uid,
        })
    }
}

/// The namespace and the name in an identity: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/pod/NAME`.
fn names(spiffe_id: &str) -> Option<(&str, &str)> {
    let (_, path) = spiffe_id.strip_prefix("spiffe://")?.split_once("/ns/")?;
    let (namespace, name) = path.split_once("/pod/")?;
    let is_name = |name: &str| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        (1..=253).contains(&name.len()) && name.bytes().all(is_plain)
    };
    (is_name(namespace) && is_name(name)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_its_identity_and_the_later_one_of_two_is_it() {
        let logs = tempfile::tempdir().expect("a folder");
        let folder = |name: &str, since: u64| {
            let path = logs.path().join(name);
            fs::create_dir(&path).expect("it is ours");
            let since = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since);
            let file = fs::File::open(&path).expect("it is there");
            file.set_modified(since).expect("it is ours");
        };
        folder("default_web-0_b", 100);
        folder("default_web-0_a", 200);
        folder("default_web-01_c", 300);
        let pods = Pods::of(logs.path());
        let found = pods
            .find("spiffe://nsm/ns/default/pod/web-0")
            .expect("it is there");
        assert_eq!(
            (&*found.namespace, &*found.name, &*found.uid),
            ("default", "web-0", "a")
        );
        assert_eq!(pods.find("spiffe://nsm/ns/default/pod/other"), None);
        assert_eq!(
            Pods::of(Path::new("/nowhere")).find("spiffe://nsm/ns/default/pod/web-0"),
            None
        );
    }

    #[test]
    fn what_is_no_identity_of_a_pod_is_none() {
        for id in [
            "",
            "spiffe://nsm",
            "spiffe://nsm/node",
            "spiffe://nsm/ns/a/pod/",
            "spiffe://nsm/ns/../pod/x",
            "spiffe://nsm/ns/a/pod/x/y",
            "spiffe://nsm/ns/a_b/pod/x",
            "https://nsm/ns/a/pod/x",
        ] {
            let is_harmless = names(id).is_none_or(|(namespace, _)| namespace == "..");
            assert!(is_harmless, "{id}");
        }
        assert_eq!(names("spiffe://nsm/ns/a/pod/x"), Some(("a", "x")));
    }
}
