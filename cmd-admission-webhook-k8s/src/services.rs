// SPDX-License-Identifier: Apache-2.0
//! What an annotation asks for.

use std::collections::{BTreeMap, BTreeSet};

use nsm_api::mechanism::{KERNEL, key};
use nsm_api::service_url::{ServiceUrl, ServiceUrlError};
use thiserror::Error;

/// The label that asks for a device of SR-IOV, by the name of its resource.
const TOKEN: &str = "sriovToken";

/// The services that an annotation names.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Services {
    /// The annotation, as a client reads it.
    pub(crate) text: String,
    /// What each item asks for.
    pub(crate) urls: Vec<ServiceUrl>,
    /// How many devices of each resource they need.
    pub(crate) devices: BTreeMap<String, u64>,
    /// What is odd about it.
    pub(crate) warnings: Vec<String>,
}

/// Why an annotation cannot be served.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum ServicesError {
    /// One of its items is no URL, or asks for what nobody can make.
    #[error(transparent)]
    Url(#[from] ServiceUrlError),
    /// Two interfaces of one name.
    #[error("two services want the interface {0:?}; give each a name of its own")]
    Interface(String),
    /// A name that cannot be a resource of Kubernetes.
    #[error(
        "label sriovToken={0:?} is no resource of Kubernetes; write domain/name, such as worker.domain/10G"
    )]
    Resource(String),
}

impl Services {
    /// Reads an annotation. One that is empty asks for nothing.
    pub(crate) fn read(annotation: &str) -> Result<Option<Self>, ServicesError> {
        let items: Vec<&str> = annotation
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect();
        if items.is_empty() {
            return Ok(None);
        }
        let mut services = Self {
            text: items.join(","),
            urls: Vec::new(),
            devices: BTreeMap::new(),
            warnings: Vec::new(),
        };
        for item in items {
            services.add(item)?;
        }
        services.check_interfaces()?;
        Ok(Some(services))
    }

    fn add(&mut self, item: &str) -> Result<(), ServicesError> {
        let url: ServiceUrl = item.parse()?;
        if !item.contains("://") {
            self.warnings.push(format!(
                "{item:?} has no scheme, kernel is taken; a comma in a label is written %2C"
            ));
        }
        if url.mechanism.r#type != KERNEL {
            let scheme = url.mechanism.r#type.to_lowercase();
            let rest = item.split_once("://").map_or(item, |(_, rest)| rest);
            self.warnings.push(format!(
                "{url}: forwarders of this mesh serve kernel, not {scheme}; without another forwarder that does, the pod \
                 waits: write kernel://{rest}"
            ));
        }
        let devices = url.labels.get(TOKEN).map_or("", String::as_str);
        for device in devices.split(',').map(str::trim) {
            if !device.is_empty() || url.labels.contains_key(TOKEN) {
                check_resource(device)?;
                *self.devices.entry(device.to_string()).or_default() += 1;
            }
        }
        self.urls.push(url);
        Ok(())
    }

    fn check_interfaces(&self) -> Result<(), ServicesError> {
        let mut seen = BTreeSet::new();
        let kernel = self.urls.iter().filter(|url| url.mechanism.r#type == KERNEL);
        for name in kernel.map(|url| url.mechanism.parameter(key::INTERFACE_NAME)) {
            if !name.is_empty() && !seen.insert(name) {
                return Err(ServicesError::Interface(name.to_string()));
            }
        }
        Ok(())
    }
}

/// An extended resource: a domain of DNS and a qualified name.
fn check_resource(name: &str) -> Result<(), ServicesError> {
    let is_name = |text: &str, longest: usize, others: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || others.as_bytes().contains(&byte);
        (1..=longest).contains(&text.len())
            && text.bytes().all(is_inner)
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.ends_with(|last: char| last.is_ascii_alphanumeric())
    };
    match name.split_once('/') {
        Some((domain, rest)) if is_name(domain, 253, "-.") && is_name(rest, 63, "-._") => Ok(()),
        _ => Err(ServicesError::Resource(name.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Services {
        Services::read(text).expect("good").expect("not empty")
    }

    fn error(text: &str) -> String {
        Services::read(text).expect_err("bad").to_string()
    }

    #[test]
    fn nothing_is_asked_for_by_nothing() {
        for text in ["", "  ", ",", " , "] {
            assert_eq!(Services::read(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn blanks_and_empty_items_are_left_out() {
        let services = read(" kernel://a/nsm-1 ,, kernel://b ");
        assert_eq!(services.text, "kernel://a/nsm-1,kernel://b");
        assert_eq!(services.urls.len(), 2);
        assert!(services.warnings.is_empty());
    }

    #[test]
    fn fifty_services_are_fifty() {
        let items: Vec<_> = (0..50).map(|number| format!("kernel://s/nsm-{number}")).collect();
        assert_eq!(read(&items.join(",")).urls.len(), 50);
    }

    #[test]
    fn an_item_that_looks_like_the_rest_of_a_label_is_told() {
        let services = read("kernel://s/nsm-1?a=1,2");
        assert_eq!(
            services.warnings,
            ["\"2\" has no scheme, kernel is taken; a comma in a label is written %2C"]
        );
        let services = read("kernel://s/nsm-1?a=1%2C2");
        assert_eq!(services.urls[0].labels["a"], "1,2");
        assert!(services.warnings.is_empty());
    }

    #[test]
    fn what_our_forwarders_do_not_serve_is_let_in_and_told() {
        for scheme in ["memif", "vfio", "noop"] {
            let services = read(&format!("kernel://a,{scheme}://b/nsm-1"));
            assert_eq!(services.urls.len(), 2);
            let [told] = &services.warnings[..] else {
                panic!("one warning: {:?}", services.warnings);
            };
            let starts = format!("{scheme}://b/nsm-1: forwarders of this mesh serve kernel, not {scheme};");
            assert!(told.starts_with(&starts), "{told}");
            assert!(told.ends_with("write kernel://b/nsm-1"), "{told}");
        }
    }

    #[test]
    fn what_nobody_can_make_is_refused_with_its_remedy() {
        assert!(error("kernel://s/a-name-too-long-for-linux").contains("at most 15"));
        assert!(error("kernel://a,tap://s").contains("use kernel, memif, vfio or noop"));
        assert!(error("kernel://").contains("names no service"));
        assert_eq!(
            error("kernel://a/nsm-1,kernel://b/nsm-1"),
            "two services want the interface \"nsm-1\"; give each a name of its own"
        );
        assert!(read("kernel://a,kernel://b").warnings.is_empty());
    }

    #[test]
    fn devices_are_counted_over_all_services() {
        let services =
            read("vfio://a?sriovToken=w.d/10G,kernel://b/n?sriovToken=w.d/10G&sriovToken=w.d/40G,kernel://c");
        let counted: Vec<_> = services.devices.into_iter().collect();
        assert_eq!(counted, [("w.d/10G".to_string(), 2), ("w.d/40G".to_string(), 1)]);
        for bad in ["10G", "", "/10G", "w.d/", "w.d/1/2", "-/a"] {
            let told = error(&format!("vfio://a?sriovToken={bad}"));
            assert!(told.contains("no resource of Kubernetes"), "{bad}: {told}");
        }
    }
}
