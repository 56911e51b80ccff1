// SPDX-License-Identifier: Apache-2.0
//! Gives a service that does not say what it carries the payload `IP`.
//!
//! **Placement**: before `memory`.
//! **Reads / writes**: the payload of the service.

use async_trait::async_trait;
use nsm_api::registry::NetworkService;

use crate::core::{Ctx, Element, Next, NsRegistry, Registration, Result};

/// What a service carries unless it says otherwise.
pub const DEFAULT_PAYLOAD: &str = "IP";

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct SetPayload;

#[async_trait]
impl Element<NsRegistry> for SetPayload {
    fn name(&self) -> &'static str {
        "setpayload"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkService>,
        next: Next<'_, NsRegistry>,
    ) -> Result<()> {
        if message.entry.payload.is_empty() {
            message.entry.payload = DEFAULT_PAYLOAD.to_string();
        }
        next.request(ctx, message).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Probe, standard_cases};
    use crate::registry::testing::{before, component, register, service};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NsRegistry, _>(|| SetPayload, service("ns", "")).await;
    }

    #[tokio::test]
    async fn c51_an_empty_payload_becomes_ip_and_another_stays() {
        let (component, probe) = (component(), Probe::new());
        let chain = before(SetPayload, &probe);
        for (asked, expected) in [("", "IP"), ("ETHERNET", "ETHERNET")] {
            let answer = register(&chain, &component, service("ns", asked)).await;
            assert_eq!(answer.entry.payload, expected);
        }
        assert_eq!(probe.requests()[0].entry.payload, "IP");
    }
}
