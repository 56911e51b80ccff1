// SPDX-License-Identifier: Apache-2.0
//! Which services of a client may use the same addresses.

use nsm_api::connection::Mechanism;
use nsm_api::mechanism::key;
use nsm_api::service_url::ServiceUrl;

use crate::core::{Error, Request, Result};

/// Groups of services whose connections may have the same addresses, because whoever uses them keeps them apart.
///
/// A connection belongs to the first group with a URL that fits: the same service and mechanism, the same interface
/// if the URL names one, and all labels of the URL.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AwarenessGroups(Vec<Vec<ServiceUrl>>);

impl AwarenessGroups {
    /// Reads groups as `NSM_AWARENESS_GROUPS` writes them: `[url,url],[url]`.
    ///
    /// Errors: `bad-awareness-groups`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| {
            Error::invalid(
                "bad-awareness-groups",
                format!("awareness groups {text:?}: {what}"),
            )
        };
        let mut groups = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let inner = rest.strip_prefix('[').and_then(|inner| inner.split_once(']'));
            let (urls, after) =
                inner.ok_or_else(|| bad(format!("{rest:?} is no group such as [url,url]")))?;
            groups.push(ServiceUrl::parse_list(urls).map_err(|error| bad(error.to_string()))?);
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(rest) if !rest.trim().is_empty() => rest.trim_start(),
                None if after.is_empty() => after,
                _ => {
                    return Err(bad(format!(
                        "a group must follow the comma, and a comma {after:?}"
                    )));
                }
            };
        }
        Ok(Self(groups))
    }

    /// The number of the group to which the connection belongs.
    pub(super) fn of(&self, request: &Request) -> Option<usize> {
        self.0
            .iter()
            .position(|group| group.iter().any(|url| fits(url, request)))
    }
}

fn fits(url: &ServiceUrl, request: &Request) -> bool {
    let connection = &request.connection;
    let name = url.mechanism.parameter(key::INTERFACE_NAME);
    let same = |mechanism: &Mechanism| {
        mechanism.r#type == url.mechanism.r#type
            && (name.is_empty() || mechanism.parameter(key::INTERFACE_NAME) == name)
    };
    let mut mechanisms = connection.mechanism.iter().chain(&request.mechanism_preferences);
    connection.network_service == url.network_service
        && mechanisms.any(same)
        && url
            .labels
            .iter()
            .all(|(label, value)| connection.labels.get(label) == Some(value))
}
