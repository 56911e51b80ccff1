// SPDX-License-Identifier: Apache-2.0
//! Which pod a client is: the identity that its manager has seen names it.

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Pod {
    /// The pod with this identity, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/pod/NAME`, if it is one of a pod.
    pub(crate) fn of(spiffe_id: &str) -> Option<Self> {
        let (_, path) = spiffe_id.strip_prefix("spiffe://")?.split_once("/ns/")?;
        let (namespace, name) = path.split_once("/pod/")?;
        (is_name(namespace) && is_name(name)).then(|| Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }
}

/// Whether Kubernetes may have something of this name.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let mut bytes = name.bytes();
    name.len() <= 253
        && name.bytes().all(is_plain)
        && is_end(bytes.next())
        && is_end(name.bytes().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_identity_of_a_pod_names_one() {
        let pod = Pod::of("spiffe://nsm/ns/a/pod/web-0.x").expect("it is one");
        assert_eq!((&*pod.namespace, &*pod.name), ("a", "web-0.x"));
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
            assert_eq!(Pod::of(id), None, "{id}");
        }
    }
}
