// SPDX-License-Identifier: Apache-2.0
//! Puts the configured types of mechanisms first among those that are offered.
//!
//! **Guarantees**: preferences of a configured type come first, in the configured order; the others follow in theirs.
//! **Placement**: before `connect`, behind whatever offers mechanisms.
//! **Reads / writes**: the preferences, which come back as they were.
//! **Cost**: a copy of the preferences a request.

use async_trait::async_trait;

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// See the [module](self).
pub struct MechanismPriority(Vec<String>);

impl MechanismPriority {
    /// The types that come first, in any case.
    pub fn new(types: &[String]) -> Self {
        Self(types.iter().map(|r#type| r#type.trim().to_uppercase()).collect())
    }
}

#[async_trait]
impl Element<NetworkService> for MechanismPriority {
    fn name(&self) -> &'static str {
        "mechanismpriority"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let offered = request.mechanism_preferences.clone();
        let place = |r#type: &str| {
            self.0
                .iter()
                .position(|first| first == r#type)
                .unwrap_or(self.0.len())
        };
        request
            .mechanism_preferences
            .sort_by_key(|mechanism| place(&mechanism.r#type));
        let done = next.request(ctx, request).await;
        request.mechanism_preferences = offered;
        done
    }
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::Mechanism;

    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| MechanismPriority::new(&[]), request()).await;
    }

    #[tokio::test]
    async fn configured_types_come_first_and_the_rest_keeps_its_order() {
        let probe = Probe::new();
        let element = MechanismPriority::new(&["wireguard".into(), " Vlan".into(), "MEMIF".into()]);
        let mut request = request();
        for r#type in ["KERNEL", "VLAN", "VXLAN", "WIREGUARD"] {
            let mechanism = Mechanism {
                r#type: r#type.into(),
                ..Default::default()
            };
            request.mechanism_preferences.push(mechanism);
        }
        let original = request.clone();
        before(element, &probe)
            .request(&Connection::new().first(), &mut request)
            .await
            .unwrap();
        let seen = probe.requests().remove(0).mechanism_preferences;
        let types: Vec<_> = seen.into_iter().map(|mechanism| mechanism.r#type).collect();
        assert_eq!(types, ["WIREGUARD", "VLAN", "KERNEL", "VXLAN"]);
        assert_eq!(request, original);
    }
}
